"""Heads that are trained: linear-bn, mlp, class-label.

Each takes features (N, D), or maps (N, D, H, W) that it averages over positions first.
"""

from torch import Tensor, nn

from hashzoo_baselines.centres import random_codes


def pool(features: Tensor) -> Tensor:
    """Average maps (N, D, H, W) over positions; vectors (N, D) stay as they are."""
    return features.mean((2, 3)) if features.ndim == 4 else features


class LinearBN(nn.Module):
    """One linear layer to K relaxed bits, then batch normalisation, which balances each bit (Hoe et al., NeurIPS 2021).

    The linear layer has no bias, because the normalisation has one. Training needs batches of two or more.

    Args:
        feature_shape: (D,) or (D, H, W).
        bits: K.
        num_classes: unused.

    >>> import torch
    >>> LinearBN((512, 4, 4), bits=48)(torch.zeros(2, 512, 4, 4)).shape
    torch.Size([2, 48])
    """

    def __init__(self, feature_shape: tuple[int, ...], bits: int, num_classes: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(feature_shape[0], bits, bias=False)
        nn.init.normal_(self.linear.weight, std=0.01)
        self.norm = nn.BatchNorm1d(bits)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, D) or (N, D, H, W) to u (N, K)."""
        return self.norm(self.linear(pool(features)))


class MLP(nn.Module):
    """Two linear layers with a ReLU between (CIBHash, Qiu et al., IJCAI 2021).

    Args:
        feature_shape: (D,) or (D, H, W).
        bits: K.
        num_classes: unused.
        hidden: width between the layers.

    >>> import torch
    >>> MLP((512,), bits=48)(torch.zeros(2, 512)).shape
    torch.Size([2, 48])
    """

    def __init__(self, feature_shape: tuple[int, ...], bits: int, num_classes: int = 0, *, hidden: int = 1024) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(feature_shape[0], hidden), nn.ReLU(), nn.Linear(hidden, bits))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, D) or (N, D, H, W) to u (N, K)."""
        return self.layers(pool(features))


class ClassLabel(nn.Module):
    """A control: a linear classifier, and as u the fixed code of the class it names.

    What it scores is what class labels alone score under a retrieval measure (Sablayrolles et al., ICASSP 2017). u has no
    gradient: the classifier learns from the logits (loss "logits").

    Args:
        feature_shape: (D,) or (D, H, W).
        bits: K.
        num_classes: C.

    Raises:
        ConfigError: there is no class, or there are more than codes of K bits.

    >>> import torch
    >>> u, logits = ClassLabel((512,), bits=12, num_classes=10)(torch.randn(2, 512))
    >>> u.shape, logits.shape, u.abs().unique()
    (torch.Size([2, 12]), torch.Size([2, 10]), tensor([1.]))
    """

    codes: Tensor

    def __init__(self, feature_shape: tuple[int, ...], bits: int, num_classes: int = 0) -> None:
        super().__init__()
        self.register_buffer("codes", random_codes(num_classes, bits))
        self.classifier = nn.Linear(feature_shape[0], num_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (N, D) or (N, D, H, W) to u (N, K) and logits (N, C)."""
        logits = self.classifier(pool(features))
        return self.codes[logits.argmax(1)], logits
