"""Loss terms that several methods share, for plugin authors to build on, and the plainest loss made of one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashzoo.hookspecs import HashOutput


def pairwise_likelihood(codes: Tensor, labels: Tensor, scale: float, balanced: bool = True) -> Tensor:
    """Negative log-likelihood of the pairwise labels, mean over i != j of w_ij [log(1 + exp(theta_ij)) - s_ij theta_ij].

    theta_ij = scale / 2 * b_i . b_j, and s_ij = 1 where i and j share a label (DPSH, Li et al., IJCAI 2016). With `balanced`
    w is S / S1 for similar and S / S0 for dissimilar pairs, S = S1 + S0 being the number of pairs (HashNet, Cao et al.,
    ICCV 2017); else 1.

    Args:
        codes: float (N, K): u, or codes in [-1, 1].
        labels: int64 (N,) class indices, or 0/1 (N, C).
        scale: 1 is DPSH's; 20 / K keeps the sigmoid of codes in {-1, +1} from saturating at any K.
        balanced: weigh similar and dissimilar pairs alike.

    Returns:
        A scalar; 0 for a batch of one, which has no pair.

    >>> codes = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    >>> round(pairwise_likelihood(codes, torch.tensor([0, 0, 1]), scale=10.0).item(), 4)
    0.0001
    """
    similar = (labels[:, None] == labels[None]) if labels.ndim == 1 else (labels @ labels.T > 0)
    off_diagonal = ~torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    s = similar[off_diagonal].to(codes.dtype)
    if not len(s):
        return codes.sum() * 0.0
    theta = (scale / 2 * (codes @ codes.T))[off_diagonal]
    terms = F.softplus(theta) - s * theta
    if balanced:
        positive = s.sum()
        terms = terms * torch.where(s > 0, len(s) / positive.clamp(min=1), len(s) / (len(s) - positive).clamp(min=1))
    return terms.mean()


def classification(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy for class indices (N,), binary cross-entropy for 0/1 targets (N, C); a scalar mean.

    >>> round(classification(torch.zeros(1, 4), torch.tensor([2])).item(), 4)  # log 4
    1.3863
    """
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets)


class Classification(nn.Module):
    """A linear classifier on the codes: what a new backbone, head or quantizer is tried with.

    Args:
        bits: K.
        num_classes: C.
        multi_label: binary cross-entropy in place of cross-entropy.

    >>> u = torch.zeros(2, 12)
    >>> list(Classification(12, 10)(HashOutput(u=u, codes=u), torch.tensor([3, 9])))
    ['class']
    """

    def __init__(self, bits: int, num_classes: int, multi_label: bool = False) -> None:
        super().__init__()
        self.classifier = nn.Linear(bits, num_classes)

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the term "class"."""
        return {"class": classification(self.classifier(output.codes), targets)}
