"""Quantizers that look at the batch or at chance in training; in evaluation mode each is exactly the sign."""

from typing import Any

import torch
from torch import Tensor, nn

from hashzoo import sign


class BiHalf(nn.Module):
    """In training each bit is +1 for the upper half of the batch and -1 for the lower (Li & van Gemert, AAAI 2021).

    Half is by rank of u within the bit; of equal u the earlier item is the upper. The middle one of an odd batch, and so a
    batch of one, has its sign. The gradient goes straight through, plus gamma * (u - b) / (N K), which draws u to its code.

    Args:
        gamma: weight of the draw.

    >>> BiHalf()(torch.tensor([[0.1], [0.2], [0.3], [0.4]])).flatten()
    tensor([-1., -1.,  1.,  1.])
    """

    def __init__(self, gamma: float = 3.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, u: Tensor) -> Tensor:
        """Map u (N, K) to {-1, +1}."""
        return _Halves.apply(u, self.gamma) if self.training else sign(u)


class _Halves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, gamma: float) -> Tensor:
        rank = u.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
        middle = (len(u) - 1) / 2
        codes = torch.where(rank == middle, sign(u), torch.where(rank < middle, 1.0, -1.0).to(u.dtype))
        ctx.save_for_backward(u, codes)
        ctx.gamma = gamma
        return codes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        u, codes = ctx.saved_tensors
        return gradients[0] + ctx.gamma * (u - codes) / u.numel(), None


class Bernoulli(nn.Module):
    """In training a bit is +1 with chance sigmoid(u), else -1; the gradient is that of its mean, 2 sigmoid(u) - 1.

    CIBHash's stochastic codes (Qiu et al., IJCAI 2021). In evaluation it is the likelier bit.

    >>> Bernoulli()(torch.tensor([[-1000.0, 1000.0]]))
    tensor([[-1.,  1.]])
    """

    def forward(self, u: Tensor) -> Tensor:
        """Map u (N, K) to {-1, +1}."""
        if not self.training:
            return sign(u)
        chance = u.sigmoid()
        mean = 2 * chance - 1
        return 2 * torch.bernoulli(chance.detach()) - 1 + (mean - mean.detach())


class Clamp(nn.Module):
    """u cut to [-1, 1] in training: the gradient is 1 inside and 0 outside.

    >>> Clamp()(torch.tensor([[-3.0, 0.5]]))
    tensor([[-1.0000,  0.5000]])
    """

    def forward(self, u: Tensor) -> Tensor:
        """Map u (N, K) to [-1, 1] in training, {-1, +1} in evaluation."""
        return u.clamp(-1, 1) if self.training else sign(u)
