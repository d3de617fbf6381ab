"""The DPHB loss."""

from typing import Literal

import torch
from torch import Tensor, nn

from hashzoo import ConfigError, HashOutput, classification, pairwise_likelihood


class DPHBLoss(nn.Module):
    """Pairwise likelihood + `label_weight` * sample-label loss, and no quantisation regulariser.

    The thesis's abstract names the two terms, blames the regulariser, and gives no formula: the forms here are
    reconstructions (see the README). Both are taken on the quantizer's output.

    Args:
        bits: K.
        num_classes: C.
        multi_label: binary cross-entropy in place of cross-entropy for `label="ce"`.
        label: "ce" is cross-entropy of a linear classifier on the codes; "l2" is the squared error ||y - W b||^2 of DSDH
            (Li et al., NeurIPS 2017), without its alternating steps.
        pair_weight, label_weight: weights of the terms.
        label_smoothing: of the cross-entropy, see `hashzoo.classification`.
        scale: `a` in theta = a / 2 * b_i . b_j; None takes 20 / K, 1 is DPSH's.
    """

    def __init__(
        self,
        bits: int,
        num_classes: int,
        multi_label: bool = False,
        *,
        label: Literal["ce", "l2"] = "ce",
        pair_weight: float = 1.0,
        label_weight: float = 1.0,
        label_smoothing: float = 0.0,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if label not in ("ce", "l2"):
            raise ConfigError(f"DPHB's label loss is 'ce' or 'l2', not {label!r}.")
        if label == "l2" and label_smoothing:
            raise ConfigError("DPHB's label_smoothing is of the cross-entropy; leave it 0 with label='l2'.")
        self.classifier = nn.Linear(bits, num_classes)
        self.label_smoothing = label_smoothing
        self.label, self.pair_weight, self.label_weight = label, pair_weight, label_weight
        self.scale = 20 / bits if scale is None else scale

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "pair" and "label"."""
        codes = output.codes
        scores = self.classifier(codes)
        if self.label == "ce":
            label = classification(scores, targets, self.label_smoothing)
        else:
            wanted = torch.nn.functional.one_hot(targets, scores.shape[1]) if targets.ndim == 1 else targets
            label = (scores - wanted.to(scores.dtype)).square().sum(1).mean()
        return {
            "pair": self.pair_weight * pairwise_likelihood(codes, targets, self.scale),
            "label": self.label_weight * label,
        }
