"""The DAHP loss: codes are drawn to their class's anchor and apart from other classes' codes."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashzoo import ConfigError, HashOutput, pairwise_likelihood
from hashzoo_dahp.anchors import anchor_targets, balanced_anchors


class DAHPLoss(nn.Module):
    """Spatial anchor loss + `pair_weight` * pairwise likelihood.

    The thesis's abstract names both terms and gives no formula: the forms here are reconstructions (see the README).

    Args:
        bits: K.
        num_classes: C.
        multi_label: an item may have several labels; its anchor is then the bitwise majority of theirs.
        anchor: "cosine" is cross-entropy over sqrt(K) (cos(u, h_c) - margin [c = y]) (OrthoHash, Hoe et al., NeurIPS 2021; single
            labels only), "bce" is binary cross-entropy of each bit, with P(bit = 1) = (1 + tanh u) / 2, against the anchor's
            (CSQ, Yuan et al., CVPR 2020).
        margin: of the cosine form.
        pair_weight: weight of the pairwise term.
        label_smoothing: of the cosine form: this share of the target is spread over all classes (Szegedy et al., CVPR 2016).
    """

    anchors: Tensor
    tie_break: Tensor

    def __init__(
        self,
        bits: int,
        num_classes: int,
        multi_label: bool = False,
        *,
        anchor: Literal["cosine", "bce"] = "bce",
        margin: float = 0.2,
        pair_weight: float = 0.1,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if anchor not in ("cosine", "bce"):
            raise ConfigError(f"DAHP's anchor loss is 'cosine' or 'bce', not {anchor!r}.")
        if anchor == "cosine" and multi_label:
            raise ConfigError("DAHP's cosine anchor loss takes single labels; use anchor='bce' for multi-label data.")
        if anchor == "bce" and label_smoothing:
            raise ConfigError("DAHP's label_smoothing is of the cosine form; leave it 0 with anchor='bce'.")
        self.label_smoothing = label_smoothing
        self.anchor, self.margin, self.pair_weight = anchor, margin, pair_weight
        self.scale = 20 / bits
        self.register_buffer("anchors", balanced_anchors(num_classes, bits))
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("tie_break", torch.randint(2, (bits,), generator=generator) * 2.0 - 1.0)

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "anchor" and "pair"."""
        u = output.u
        if self.anchor == "bce":
            goal = anchor_targets(self.anchors, targets, self.tie_break)
            anchor = F.binary_cross_entropy_with_logits(2 * u, (goal + 1) / 2)  # sigmoid(2u) = (1 + tanh u) / 2
        else:
            cosine = F.normalize(u) @ F.normalize(self.anchors).T
            cosine = cosine - self.margin * F.one_hot(targets, len(self.anchors))
            anchor = F.cross_entropy(math.sqrt(u.shape[1]) * cosine, targets, label_smoothing=self.label_smoothing)
        return {
            "anchor": anchor,
            "pair": self.pair_weight * pairwise_likelihood(output.codes, targets, self.scale),
        }
