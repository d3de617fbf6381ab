"""The usual quantizers; in evaluation mode each is exactly the sign, with sign(0) = +1."""

from typing import Literal

import torch
from torch import Tensor, nn

from hashzoo.errors import ConfigError


def sign(u: Tensor) -> Tensor:
    """Return +1 where u >= 0 and -1 elsewhere, in u's dtype.

    >>> sign(torch.tensor([-0.5, 0.0, 2.0]))
    tensor([-1.,  1.,  1.])
    """
    return torch.where(u >= 0, 1.0, -1.0).to(u.dtype)


class Sign(nn.Module):
    """The sign in training too; its gradient goes straight through.

    Args:
        gradient: "hard-tanh" passes dL/db where |u| <= 1 and stops it elsewhere (Hubara et al., 2016; DBDH, 2020);
            "identity" passes it everywhere (GreedyHash, Su et al., NeurIPS 2018).

    >>> u = torch.tensor([-2.0, -0.5, 0.0], requires_grad=True)
    >>> b = Sign()(u)
    >>> b.detach(), torch.autograd.grad(b.sum(), u)[0]
    (tensor([-1., -1.,  1.]), tensor([0., 1., 1.]))
    """

    def __init__(self, gradient: Literal["hard-tanh", "identity"] = "hard-tanh") -> None:
        super().__init__()
        if gradient not in ("hard-tanh", "identity"):
            raise ConfigError(f"The sign's gradient is 'hard-tanh' or 'identity', not {gradient!r}.")
        self.gradient = gradient

    def forward(self, u: Tensor) -> Tensor:
        """Map u (N, K) to {-1, +1}."""
        if not self.training:
            return sign(u)
        through = torch.where(u.abs() <= 1, u, 0.0) if self.gradient == "hard-tanh" else u
        return sign(u).detach() + (through - through.detach())


class Tanh(nn.Module):
    """tanh(beta u) in training, the sign in evaluation.

    Args:
        beta: slope at the start.
        beta_end: slope at the end of training, reached in a line (HashNet's own goes in steps); None keeps `beta`.
    """

    def __init__(self, beta: float = 1.0, beta_end: float | None = None) -> None:
        super().__init__()
        if beta <= 0 or (beta_end is not None and beta_end < beta):
            raise ConfigError(f"tanh needs 0 < beta <= beta_end, not beta={beta}, beta_end={beta_end}.")
        self.start, self.end = beta, beta if beta_end is None else beta_end
        self.beta = beta

    def set_progress(self, progress: float) -> None:
        """Set the slope for the share of training done, 0 to 1."""
        self.beta = self.start + (self.end - self.start) * progress

    def forward(self, u: Tensor) -> Tensor:
        """Map u (N, K) to (-1, 1) in training, {-1, +1} in evaluation."""
        return torch.tanh(self.beta * u) if self.training else sign(u)
