"""Losses on triplets: an anchor, an item similar to it and one that is not."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashzoo import HashOutput
from hashzoo_baselines.pairwise import RENAMED, mean, quantization, similar


class DTSH(nn.Module):
    """Deep supervised hashing with triplet labels (Wang, Shi and Kitani, ACCV 2016).

    The mean over the batch's triplets (i, p, q), where p shares a label with i and q shares none, of
    log(1 + e^-(theta_ip - theta_iq - margin)), theta_ij = u_i . u_j / 2, plus the weighted mean over items and bits of
    (u - sgn u)^2. An item is no positive or negative of itself; a batch without triplets has a triplet term of 0. It
    holds all pairs with an anchor's positives times N at once: at N = 256, 1.7 million numbers for 10 classes.

    Args:
        bits: K.
        num_classes: C; not used.
        multi_label: targets are 0/1 (N, C).
        margin: by how much theta_ip should exceed theta_iq.
        quantization_weight: of the second term.
    """

    renamed = RENAMED

    def __init__(
        self,
        bits: int,
        num_classes: int,
        multi_label: bool = False,
        *,
        margin: float = 5.0,
        quantization_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.margin, self.quantization_weight = margin, quantization_weight

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "triplet" and "quantization"."""
        u = output.u
        theta = u @ u.T / 2
        near = similar(targets, targets)
        others = ~torch.eye(len(u), dtype=torch.bool, device=u.device)
        anchor, positive = (near & others).nonzero(as_tuple=True)
        triplets = (theta[anchor, positive][:, None] - theta[anchor])[~near[anchor]]
        return {
            "triplet": mean(F.softplus(self.margin - triplets)),
            "quantization": self.quantization_weight * quantization(u),
        }
