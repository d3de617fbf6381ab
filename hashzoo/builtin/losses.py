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
    pairs = len(codes) * (len(codes) - 1)
    if not pairs:
        return codes.sum() * 0.0
    # weights, not a selection: the number of selected pairs would make the CPU wait for the GPU
    counted = 1 - torch.eye(len(codes), dtype=codes.dtype, device=codes.device)
    s = similar.to(codes.dtype)
    theta = scale / 2 * (codes @ codes.T)
    terms = (F.softplus(theta) - s * theta) * counted
    if balanced:
        positive = (s * counted).sum()
        terms = terms * torch.where(similar, pairs / positive.clamp(min=1), pairs / (pairs - positive).clamp(min=1))
    return terms.sum() / pairs


def classification(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy for class indices (N,), binary cross-entropy for 0/1 targets (N, C); a scalar mean.

    Args:
        logits: float (N, C).
        targets: int64 (N,), or float (N, C).
        label_smoothing: this share of the target is spread over all classes (Szegedy et al., CVPR 2016); of a 0/1 target, half
            of it goes to the other answer.

    >>> round(classification(torch.zeros(1, 4), torch.tensor([2])).item(), 4)  # log 4
    1.3863
    """
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    return F.binary_cross_entropy_with_logits(logits, targets * (1 - label_smoothing) + label_smoothing / 2)


class Classification(nn.Module):
    """A linear classifier on the codes: what a new backbone, head or quantizer is tried with.

    Args:
        bits: K.
        num_classes: C.
        multi_label: binary cross-entropy in place of cross-entropy.
        label_smoothing: of `classification`.

    >>> u = torch.zeros(2, 12)
    >>> list(Classification(12, 10)(HashOutput(u=u, codes=u), torch.tensor([3, 9])))
    ['class']
    """

    def __init__(self, bits: int, num_classes: int, multi_label: bool = False, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.classifier = nn.Linear(bits, num_classes)
        self.label_smoothing = label_smoothing

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the term "class"."""
        return {"class": classification(self.classifier(output.codes), targets, self.label_smoothing)}
