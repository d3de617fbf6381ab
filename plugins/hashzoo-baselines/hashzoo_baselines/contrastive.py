"""The loss of two views of each image; no labels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashzoo import HashOutput


def view_contrast(codes: Tensor, temperature: float) -> Tensor:
    """Compute NT-Xent (Chen et al., ICML 2020): -log of the share of an item's other view in exp(cos / temperature).

    The share is among all items but itself, of both views; the mean is over all 2M items.

    Args:
        codes: float (2M, K), view by view: rows i and i + M are of one image.
        temperature: above 0.

    Returns:
        A scalar; 0 for one image, whose views have nothing to be told from.

    >>> view_contrast(torch.tensor([[1.0, 1.0], [1.0, -1.0]]).repeat(2, 1), temperature=1.0)  # log(e + 2) - 1
    tensor(0.5514)
    """
    codes = F.normalize(codes)
    similarity = (codes @ codes.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(codes), device=codes.device).roll(len(codes) // 2)
    return F.cross_entropy(similarity, partner)


def view_divergence(u: Tensor) -> Tensor:
    """Compute (KL(p || q) + KL(q || p)) / 2 of the two views' Bernoulli codes, P(bit = 1) = sigmoid(u).

    With logits it is half the sum over bits of (p - q) (u_p - u_q); the mean is over images.

    Args:
        u: float (2M, K), view by view.

    Returns:
        A scalar, 0 where both views agree.

    >>> view_divergence(torch.tensor([[0.0, 2.0], [0.0, -2.0]]))  # 0.8808 - 0.1192, times 4, by 2
    tensor(1.5232)
    """
    first, second = u.chunk(2)
    return ((first.sigmoid() - second.sigmoid()) * (first - second)).sum(1).mean() / 2


class CIBHash(nn.Module):
    """Contrast of two views' codes + `divergence_weight` * their divergence (Qiu et al., IJCAI 2021); labels are ignored.

    The quantizer is "bernoulli", so that codes are draws of P(bit = 1) = sigmoid(u). See `view_contrast`, `view_divergence`.

    Args:
        bits: unused.
        num_classes: unused.
        multi_label: unused.
        temperature: of the contrast.
        divergence_weight: the paper's beta.

    >>> u = torch.tensor([[5.0, 5.0], [5.0, -5.0]]).repeat(2, 1)
    >>> sorted(CIBHash(2, 0)(HashOutput(u=u, codes=u.sign()), torch.zeros(4)))
    ['contrast', 'divergence']
    """

    views = 2

    def __init__(
        self,
        bits: int,
        num_classes: int,
        multi_label: bool = False,
        *,
        temperature: float = 0.3,
        divergence_weight: float = 0.001,
    ) -> None:
        super().__init__()
        self.temperature, self.divergence_weight = temperature, divergence_weight

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "contrast" and "divergence"."""
        return {
            "contrast": view_contrast(output.codes, self.temperature),
            "divergence": self.divergence_weight * view_divergence(output.u),
        }
