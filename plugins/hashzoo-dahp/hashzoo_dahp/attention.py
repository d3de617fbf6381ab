"""Dual attention (Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019), the light form."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashzoo import ConfigError


class PositionAttention(nn.Module):
    """Each position adds what similar positions hold: x + gamma * V A^T, A = softmax over positions of Q^T K.

    gamma is learned from 0. Shapes: (N, D, H, W) to the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the H*W positions."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        attention = torch.softmax(query.transpose(1, 2) @ key, dim=2)  # (N, positions that ask, positions that answer)
        return x + self.gamma * (value @ attention.transpose(1, 2)).view_as(x)


class ChannelAttention(nn.Module):
    """Each channel adds what the channels least like it hold: x + beta * A X, A = softmax(max(E) - E), E = X X^T.

    The maximum is of each row, so A = softmax(-E): attention of -X to X, which torch computes without keeping the D x D
    matrix. beta is learned from 0. Shapes: (N, D, H, W) to the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the D channels."""
        with torch.autocast(x.device.type, enabled=False):  # energies are sums over positions: bfloat16 is too coarse
            flat = x.float().flatten(2)[:, None].contiguous()  # one head: (N, 1, D, H*W)
            attended = F.scaled_dot_product_attention(-flat, flat, flat, scale=1.0)
        return x + self.beta * attended.to(x.dtype).view_as(x)


class DualAttentionHead(nn.Module):
    """Position and channel attention side by side, summed, averaged over positions, then linear to K bits.

    The linear layer starts at N(0, 0.01) and bias 0, as in HashNet's public code.

    Args:
        feature_shape: (D, H, W), D at least 8; a vector (D,) is refused, because attention needs a map.
        bits: K.
        num_classes: unused.

    >>> DualAttentionHead((64, 4, 4), bits=12)(torch.zeros(2, 64, 4, 4)).shape
    torch.Size([2, 12])
    """

    def __init__(self, feature_shape: tuple[int, ...], bits: int, num_classes: int = 0) -> None:
        super().__init__()
        if len(feature_shape) != 3:
            raise ConfigError(f"Dual attention needs a feature map (D, H, W), not features of shape {feature_shape}.")
        if feature_shape[0] < 8:
            raise ConfigError(f"Dual attention needs at least 8 channels, not {feature_shape[0]}.")
        self.position = PositionAttention(feature_shape[0])
        self.channel = ChannelAttention()
        self.linear = nn.Linear(feature_shape[0], bits)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, D, H, W) to u (N, K)."""
        return self.linear((self.position(features) + self.channel(features)).mean((2, 3)))
