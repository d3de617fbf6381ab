"""Losses on pairs of items. A pair is similar, s = 1, where the two share a label; an item is never paired with itself."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashzoo import ConfigError, HashOutput, pairwise_likelihood, sign


def similar(labels: Tensor, others: Tensor) -> Tensor:
    """Say which items share a label.

    Args:
        labels: int64 (N,), or 0/1 (N, C).
        others: the same for M items.

    Returns:
        bool (N, M). Items without any label are similar to none.

    >>> similar(torch.tensor([0, 1]), torch.tensor([1, 1, 0]))
    tensor([[False, False,  True],
            [ True,  True, False]])
    """
    return labels[:, None] == others[None] if labels.ndim == 1 else labels @ others.T > 0


def mean(values: Tensor) -> Tensor:
    """Mean of all values; 0, with a gradient of 0, if there are none."""
    return values.sum() / max(1, values.numel())


def quantization(u: Tensor) -> Tensor:
    """Mean over items and bits of (u - sgn u)^2.

    >>> quantization(torch.tensor([[1.0, -1.0], [-2.0, 0.0]]))
    tensor(0.5000)
    """
    return (u - sign(u)).square().mean()


RENAMED = {"quantisation_weight": "quantization_weight"}  # the name that it had in hashzoo 0.1


class Remembering(nn.Module):
    """Base of the losses that see every training item: keeps the last codes of each, and its labels.

    Args:
        bits: K.
        num_classes: C.
        multi_label: whether targets are float (n, C) and not int64 (n,).
    """

    memory: Tensor
    labels: Tensor

    def __init__(self, bits: int, num_classes: int, multi_label: bool = False) -> None:
        super().__init__()
        self.register_buffer("memory", torch.empty(0, bits))
        no_labels = torch.empty(0, num_classes) if multi_label else torch.empty(0, dtype=torch.int64)
        self.register_buffer("labels", no_labels)

    def start(self, targets: Tensor) -> None:
        """Make the memory for a training list, (n,) or (n, C); a row of zeros is of an item not met yet."""
        self.labels = targets.to(self.labels)
        self.memory = self.memory.new_zeros(len(targets), self.memory.shape[1])

    def remember(self, codes: Tensor, index: Tensor | None) -> Tensor:
        """Write the batch's codes (N, K) to their rows.

        Returns:
            The rows, int64 (N,).

        Raises:
            ConfigError: there is no memory, or no index.
        """
        if index is None or not len(self.memory):
            raise ConfigError(
                f"{type(self).__name__} remembers the codes of its training list: call start(targets) before the first step, "
                "and give output.index with each."
            )
        self.memory[index] = codes.detach()
        return index

    def likelihood(self, u: Tensor, targets: Tensor, index: Tensor) -> Tensor:
        """Pairwise likelihood of the batch's u (N, K) with the memory: a scalar, the mean over the pairs.

        Pairs of an item with itself and with items not met yet are left out. The gradient, the mean over j of
        (sigma(theta_ij) - s_ij) u_j / 2, is summed along with the value, a part of the memory at a time: an (N, n) matrix and its
        graph would take most of a training step.
        """
        met = self.memory.any(dim=1)
        pairs = len(u) * met.sum() - met[index].sum()
        value, gradient = u.new_zeros(()), torch.zeros_like(u)
        with torch.no_grad():
            for items in met.nonzero().flatten().split(4096):
                others = self.memory[items]
                # softplus(x) - s x is softplus(-x) where s = 1
                against = torch.where(similar(targets, self.labels[items]), -1.0, 1.0).to(u.dtype)
                exponents = (u / 2 @ others.T).mul_(against).masked_fill_(index[:, None] == items, -math.inf)
                value += F.softplus(exponents).sum()
                gradient += exponents.sigmoid_().mul_(against) @ others / 2
        return (value + ((u - u.detach()) * gradient).sum()) / pairs.clamp(min=1)


class DSH(nn.Module):
    """Deep supervised hashing (Liu, Wang, Shan and Chen, CVPR 2016): contrastive loss of squared distances.

    The mean over pairs of s d / 2 + (1 - s) max(0, m - d) / 2 + alpha (|| |b_i| - 1 ||_1 + || |b_j| - 1 ||_1), where
    d = ||b_i - b_j||^2 and m = 2K, as in the paper. d is four times the Hamming distance where codes are in {-1, +1}:
    dissimilar codes are pushed until they differ in half their bits. b is `output.codes`.

    Args:
        bits: K.
        num_classes: C; not used.
        multi_label: targets are 0/1 (N, C).
        alpha: weight of the penalty that draws each |b_k| to 1.
    """

    def __init__(self, bits: int, num_classes: int, multi_label: bool = False, *, alpha: float = 0.01) -> None:
        super().__init__()
        self.margin, self.alpha = 2 * bits, alpha

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "pair" and "quantization"."""
        codes = output.codes
        i, j = torch.triu_indices(len(codes), len(codes), 1, device=codes.device)
        squares = codes.square().sum(1)
        distances = (squares[:, None] + squares - 2 * codes @ codes.T)[i, j]
        near = similar(targets, targets)[i, j]
        return {
            "pair": mean(torch.where(near, distances, F.relu(self.margin - distances)) / 2),
            "quantization": 2 * self.alpha * (codes.abs() - 1).abs().sum(1).mean(),
        }


class DPSH(Remembering):
    """Deep pairwise-supervised hashing (Li, Wang and Kang, IJCAI 2016).

    The mean over pairs of log(1 + e^theta) - s theta, theta = u_i . u_j / 2, plus eta times the mean over items and bits of
    (u - sgn u)^2. The paper sums: its weight of 10 is 0.1 here, at its 5,000 training items and 48 bits.

    Args:
        bits: K.
        num_classes: C.
        multi_label: targets are 0/1 (N, C).
        memory: pair the batch with the last u of every training item, as the paper does, and not within itself. Those u get no
            gradient; items not met yet are left out.
        eta: weight of the quantization term.
    """

    def __init__(
        self, bits: int, num_classes: int, multi_label: bool = False, *, memory: bool = True, eta: float = 0.1
    ) -> None:
        super().__init__(bits, num_classes, multi_label)
        self.against_memory, self.eta = memory, eta

    def start(self, targets: Tensor) -> None:
        """Make the memory, if there is one."""
        if self.against_memory:
            super().start(targets)

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "pair" and "quantization".

        Raises:
            ConfigError: the memory was not started, or there is no `output.index`.
        """
        u = output.u
        if self.against_memory:
            pair = self.likelihood(u, targets, self.remember(u, output.index))
        else:
            pair = pairwise_likelihood(u, targets, scale=1, balanced=False)
        return {"pair": pair, "quantization": self.eta * quantization(u)}


class DHN(nn.Module):
    """Deep hashing network (Zhu, Long, Wang and Cao, AAAI 2016).

    The mean over pairs of log(1 + e^theta) - s theta, theta = z_i . z_j, plus the weighted mean over items and bits of
    log cosh(|z| - 1), a smooth | |z| - 1 |. z is `output.codes`; the paper's is a tanh.

    Args:
        bits: K.
        num_classes: C; not used.
        multi_label: targets are 0/1 (N, C).
        quantization_weight: of the second term; the paper chose it by cross-validation.
    """

    renamed = RENAMED

    def __init__(
        self, bits: int, num_classes: int, multi_label: bool = False, *, quantization_weight: float = 0.1
    ) -> None:
        super().__init__()
        self.quantization_weight = quantization_weight

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "pair" and "quantization"."""
        gap = (output.codes.abs() - 1).abs()
        log_cosh = gap + F.softplus(-2 * gap) - math.log(2)  # cosh itself overflows at 90
        return {
            "pair": pairwise_likelihood(output.codes, targets, scale=2, balanced=False),
            "quantization": self.quantization_weight * log_cosh.mean(),
        }


class HashNet(nn.Module):
    """HashNet (Cao, Long, Wang and Yu, ICCV 2017).

    The mean over pairs of w [log(1 + e^theta) - s theta], theta = 10 / K * h_i . h_j, where w = S / S1 for the S1 similar and
    S / S0 for the S0 dissimilar of the batch's S pairs. The paper's sigmoid has a slope below 1; 10 / K keeps theta within
    [-10, 10] at any K. h is `output.codes`: the quantizer "tanh" with `beta_end` is the method's continuation. Of its weights
    for multi-label data the factor |y_i & y_j| / |y_i | y_j| is left out, as it is 0 for all dissimilar pairs.

    Args:
        bits: K.
        num_classes: C; not used.
        multi_label: targets are 0/1 (N, C).
    """

    def __init__(self, bits: int, num_classes: int, multi_label: bool = False) -> None:
        super().__init__()
        self.scale = 20 / bits

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the term "pair"."""
        return {"pair": pairwise_likelihood(output.codes, targets, self.scale)}


class DCH(nn.Module):
    """Deep Cauchy hashing (Cao, Long, Liu and Wang, CVPR 2018).

    A pair is similar with probability gamma / (gamma + d), d = K / 2 (1 - cos(z_i, z_j)), which is the Hamming distance where
    codes are in {-1, +1}. The mean over pairs of w times the cross-entropy, log(1 + d / gamma) if similar and
    log(1 + gamma / d) if not, with HashNet's weights w, so that it is the mean over similar plus the mean over dissimilar
    pairs; plus the weighted mean over items of log(1 + d' / gamma), d' = K / 2 (1 - cos(|z|, 1)). z is `output.codes`. A
    distance of dissimilar codes below 1e-4 counts as 1e-4, where the logarithm is finite.

    Args:
        bits: K.
        num_classes: C; not used.
        multi_label: targets are 0/1 (N, C).
        gamma: the Cauchy distribution's scale, in bits.
        quantization_weight: of the second term.
    """

    renamed = RENAMED

    def __init__(
        self,
        bits: int,
        num_classes: int,
        multi_label: bool = False,
        *,
        gamma: float = 20.0,
        quantization_weight: float = 0.1,
    ) -> None:
        super().__init__()
        if gamma <= 0:
            raise ConfigError(f"DCH's gamma is a distance above 0, not {gamma}.")
        self.bits, self.gamma, self.quantization_weight = bits, gamma, quantization_weight

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "pair" and "quantization"."""
        directions = F.normalize(output.codes, eps=1e-3)  # keeps the gradient of a row of zeros within reason
        i, j = torch.triu_indices(len(directions), len(directions), 1, device=directions.device)
        distances = self.bits / 2 * (1 - directions @ directions.T)[i, j]
        near = similar(targets, targets)[i, j]
        to_corner = self.bits / 2 * (1 - directions.abs().sum(1) / math.sqrt(self.bits))
        return {
            "pair": mean(torch.log1p(distances[near].clamp(min=0) / self.gamma))
            + mean(torch.log1p(self.gamma / distances[~near].clamp(min=1e-4))),
            "quantization": self.quantization_weight * torch.log1p(to_corner / self.gamma).mean(),
        }


class DBDH(nn.Module):
    """Deep balanced discrete hashing (Zheng, Zhang and Lu, Neurocomputing 2020).

    The mean over pairs of log(1 + e^theta) - s theta, theta = 2 / K * b_i . b_j, plus the weighted mean over bits of
    (mean_i b_ik)^2: each bit should split the batch. b is `output.codes`, true signs with a straight-through gradient if the
    quantizer is "sign".

    Only the paper's abstract was to be had, so scale and balance are reconstructions. With theta as large as DPSH's
    b_i . b_j / 2 or HashNet's 10 / K * b_i . b_j, the gradient through signs drew u to 0 in trials; 2 / K keeps theta within
    [-2, 2]. Public codes balance the bits of each item instead.

    Args:
        bits: K.
        num_classes: C; not used.
        multi_label: targets are 0/1 (N, C).
        balance_weight: of the second term.
    """

    def __init__(self, bits: int, num_classes: int, multi_label: bool = False, *, balance_weight: float = 0.1) -> None:
        super().__init__()
        self.scale, self.balance_weight = 4 / bits, balance_weight

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "pair" and "balance"."""
        codes = output.codes
        return {
            "pair": pairwise_likelihood(codes, targets, self.scale, balanced=False),
            "balance": self.balance_weight * codes.mean(0).square().mean(),
        }
