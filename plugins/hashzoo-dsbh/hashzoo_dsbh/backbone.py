"""The three-layer CNN, as published and wide."""

from typing import Any

from torch import Tensor, nn

from hashzoo import ConfigError


class CNN3(nn.Module):
    """The CIFAR-10 network of DSH (Liu et al., CVPR 2016): three 5x5 convolutions, then 500 features.

    With a linear head of 48 bits it has 391,876 parameters. Weights start at Kaiming's normal for ReLU, biases at 0.

    Args:
        pretrained: must stay False; nobody publishes weights for it.

    >>> import torch
    >>> CNN3()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 500])
    """

    def __init__(self, pretrained: bool = False) -> None:
        super().__init__()
        if pretrained:
            raise ConfigError("cnn3 has no published weights; train it with pretrained = false.")
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(inplace=True), nn.AvgPool2d(3, 2),
            nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(inplace=True), nn.AvgPool2d(3, 2),
            nn.Flatten(), nn.Linear(576, 500), nn.ReLU(inplace=True),
        )  # fmt: skip
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        self.num_features = 500
        self.feature_shape = (500,)
        self.preprocess: dict[str, Any] = {"size": (32, 32)}

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to features (N, 500)."""
        return self.layers(images)


class CNN3Wide(nn.Module):
    """CNN3 with 64, 128 and 256 channels, batch normalisation and max-pooling; our own, no paper's.

    With a linear head of 48 bits it has 2,206,744 parameters. Weights start at Kaiming's normal for ReLU.

    Args:
        pretrained: must stay False; nobody publishes weights for it.

    >>> import torch
    >>> CNN3Wide()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 500])
    """

    def __init__(self, pretrained: bool = False) -> None:
        super().__init__()
        if pretrained:
            raise ConfigError("cnn3-wide has no published weights; train it with pretrained = false.")
        layers: list[nn.Module] = []
        for before, after in ((3, 64), (64, 128), (128, 256)):
            conv = nn.Conv2d(before, after, 5, padding=2, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)]
        linear = nn.Linear(2304, 500, bias=False)
        self.layers = nn.Sequential(*layers, nn.Flatten(), linear, nn.BatchNorm1d(500), nn.ReLU(inplace=True))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.num_features = 500
        self.feature_shape = (500,)
        self.preprocess: dict[str, Any] = {"size": (32, 32)}

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to features (N, 500)."""
        return self.layers(images)
