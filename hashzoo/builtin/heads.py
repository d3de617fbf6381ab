"""The linear hash head."""

from torch import Tensor, nn


def pool(features: Tensor) -> Tensor:
    """Average maps (N, D, H, W) over positions; vectors (N, D) stay as they are."""
    return features.mean((2, 3)) if features.ndim == 4 else features


class LinearHead(nn.Module):
    """Global average pool of a map, then one linear layer to K relaxed bits.

    Weights start at N(0, 0.01) and biases at 0, as in HashNet (Cao et al., ICCV 2017, its public code).

    Args:
        feature_shape: (D,) or (D, H, W).
        bits: K.
        num_classes: unused; a head that makes logits needs it.

    >>> import torch
    >>> LinearHead((512, 4, 4), bits=48)(torch.zeros(2, 512, 4, 4)).shape
    torch.Size([2, 48])
    """

    def __init__(self, feature_shape: tuple[int, ...], bits: int, num_classes: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_shape[0], bits)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, D) or (N, D, H, W) to u (N, K)."""
        return self.linear(pool(features))
