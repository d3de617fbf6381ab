"""Losses that ask an item for its class, or for its class's code; none looks at pairs of items."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from hashzoo import ConfigError, HashOutput, classification
from hashzoo_baselines.centres import centre_of, hash_centres, random_codes
from hashzoo_baselines.pairwise import RENAMED


class GreedyHash(nn.Module):
    """Classification of the signs + `quantization_weight` * mean ||u| - 1|^3 (Su et al., NeurIPS 2018).

    The quantizer is "sign" with gradient "identity", so that a learned linear classifier reads true codes. The penalty is the
    paper's ||u - sgn u||_3^3 as a mean over items and bits, where the paper has the sum.

    Args:
        bits: K.
        num_classes: C.
        multi_label: binary cross-entropy in place of cross-entropy.
        quantization_weight: the paper's alpha.

    >>> import torch
    >>> u = torch.tensor([[0.0, 1.0, -3.0, 2.0]])
    >>> GreedyHash(4, 10)(HashOutput(u=u, codes=u.sign()), torch.tensor([3]))["quantization"]  # 0.1 * (1 + 0 + 8 + 1) / 4
    tensor(0.2500)
    """

    renamed = RENAMED

    def __init__(
        self, bits: int, num_classes: int, multi_label: bool = False, *, quantization_weight: float = 0.1
    ) -> None:
        super().__init__()
        self.classifier = nn.Linear(bits, num_classes)
        self.quantization_weight = quantization_weight

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "class" and "quantization"."""
        return {
            "class": classification(self.classifier(output.codes), targets),
            "quantization": self.quantization_weight * (output.u.abs() - 1).abs().pow(3).mean(),
        }


class TargetLoss(nn.Module):
    """A loss that draws each item to a fixed code.

    Args:
        centres: (C, K) of -1 and +1, the codes of the classes.
    """

    centres: Tensor
    tie: Tensor

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        self.register_buffer("centres", centres)
        self.register_buffer("tie", random_codes(1, centres.shape[1], seed=1)[0])

    def goal(self, targets: Tensor) -> Tensor:
        """Give the code (N, K) each item is drawn to; see `centre_of`."""
        return centre_of(targets, self.centres, self.tie)


class CSQ(TargetLoss):
    """Binary cross-entropy of each bit to the hash centre's + `quantization_weight` * mean (|b| - 1)^2 (Yuan et al., CVPR 2020).

    P(bit = 1) = (1 + tanh u) / 2 = sigmoid(2u), so that the quantizer is "tanh" with beta 1, and b are its codes. Centres are
    `hash_centres`; with many labels their bitwise majority. Means are over items and bits. The paper's penalty is
    log cosh(|b| - 1), which is about half the square.

    Args:
        bits: K.
        num_classes: C.
        multi_label: an item may have several labels.
        quantization_weight: of the penalty.

    Raises:
        ConfigError: there are more classes than codes of K bits.

    >>> import torch
    >>> u = torch.zeros(2, 12)
    >>> CSQ(12, 10)(HashOutput(u=u, codes=u.tanh()), torch.tensor([3, 9]))["centre"]  # log 2
    tensor(0.6931)
    """

    renamed = RENAMED

    def __init__(
        self, bits: int, num_classes: int, multi_label: bool = False, *, quantization_weight: float = 1e-4
    ) -> None:
        super().__init__(hash_centres(num_classes, bits))
        self.quantization_weight = quantization_weight

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "centre" and "quantization"."""
        return {
            "centre": F.binary_cross_entropy_with_logits(2 * output.u, (self.goal(targets) + 1) / 2),
            "quantization": self.quantization_weight * (output.codes.abs() - 1).square().mean(),
        }


class DPN(TargetLoss):
    """Polarisation loss: mean over items and bits of max(0, margin - u t), t the class's drawn code (Fan et al., IJCAI 2020).

    With many labels t is the bitwise majority of their codes.

    Args:
        bits: K.
        num_classes: C.
        multi_label: an item may have several labels.
        margin: m; u beyond it, on the right side, costs nothing.

    Raises:
        ConfigError: there are more classes than codes of K bits.

    >>> import torch
    >>> loss = DPN(12, 10)
    >>> loss(HashOutput(u=loss.centres, codes=loss.centres), torch.arange(10))["polarisation"]
    tensor(0.)
    """

    def __init__(self, bits: int, num_classes: int, multi_label: bool = False, *, margin: float = 1.0) -> None:
        super().__init__(random_codes(num_classes, bits))
        self.margin = margin

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the term "polarisation"."""
        return {"polarisation": F.relu(self.margin - output.u * self.goal(targets)).mean()}


class OrthoHash(nn.Module):
    """Cross-entropy over the classes of sqrt(K) * (cos(u, h_c) - margin * [c = y]) (Hoe et al., NeurIPS 2021).

    h_c are drawn codes, which are nearly orthogonal. With many labels the margin is taken off each of them, and the item's
    term is the mean over its labels; an item without labels costs nothing. The head is "linear-bn".

    Args:
        bits: K.
        num_classes: C.
        multi_label: an item may have several labels.
        margin: taken off the cosine of the item's own class.

    Raises:
        ConfigError: there are more classes than codes of K bits.

    >>> import torch
    >>> u = torch.ones(2, 12)
    >>> list(OrthoHash(12, 10)(HashOutput(u=u, codes=u), torch.tensor([3, 9])))
    ['class']
    """

    centres: Tensor

    def __init__(self, bits: int, num_classes: int, multi_label: bool = False, *, margin: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("centres", random_codes(num_classes, bits))
        self.margin = margin

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the term "class"."""
        cosine = F.normalize(output.u) @ F.normalize(self.centres).T
        own = (F.one_hot(targets, len(self.centres)) if targets.ndim == 1 else targets).to(cosine.dtype)
        logits = math.sqrt(output.u.shape[1]) * (cosine - self.margin * own)
        return {"class": F.cross_entropy(logits, own / own.sum(1, keepdim=True).clamp(min=1))}


class Logits(nn.Module):
    """Classification of the head's own class logits; the codes have no part in it.

    Args:
        bits: unused.
        num_classes: unused; the head knows it.
        multi_label: binary cross-entropy in place of cross-entropy.

    >>> import torch
    >>> output = HashOutput(u=torch.zeros(1, 12), codes=torch.zeros(1, 12), logits=torch.zeros(1, 4))
    >>> Logits(12, 4)(output, torch.tensor([2]))["class"]  # log 4
    tensor(1.3863)
    """

    def __init__(self, bits: int, num_classes: int, multi_label: bool = False) -> None:
        super().__init__()

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the term "class".

        Raises:
            ConfigError: the head makes no logits.
        """
        if output.logits is None:
            raise ConfigError(
                "The loss logits needs a head that makes class logits, and this one makes none; try class-label."
            )
        return {"class": classification(output.logits.float(), targets)}
