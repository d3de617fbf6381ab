"""AlexNet up to fc7."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torchvision.models import AlexNet_Weights, alexnet

from hashzoo import ConfigError


class AlexNet(nn.Module):
    """AlexNet (Krizhevsky et al., 2012; torchvision's form) with fc6 and fc7, without fc8.

    Without pretrained weights, layers start at Kaiming's normal for ReLU: torchvision's own start is too small to train a
    net without batch normalisation quickly.

    Args:
        pretrained: fetch torchvision's ImageNet weights (training only; needs fc_features = 4096).
        fc_features: width of fc6 and fc7; 4096 is AlexNet, less keeps the file small.
        dropout: before fc6 and fc7.
        batch_norm: normalise after every layer in training; `fold` then leaves the plain network (Ioffe and Szegedy, ICML 2015).

    >>> import torch
    >>> AlexNet(fc_features=64)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 64])
    """

    def __init__(
        self, pretrained: bool = False, fc_features: int = 4096, dropout: float = 0.5, batch_norm: bool = False
    ) -> None:
        super().__init__()
        if not 1 <= fc_features <= 4096 or not 0 <= dropout < 1:
            raise ConfigError(
                f"AlexNet needs fc_features of 1 to 4096 and 0 <= dropout < 1, not {fc_features} and {dropout}."
            )
        if pretrained and batch_norm:
            raise ConfigError("AlexNet's published weights are of the plain network; train it with batch_norm = false.")
        if pretrained and fc_features != 4096:
            raise ConfigError(f"AlexNet's published weights have fc_features = 4096, not {fc_features}.")
        net = alexnet(dropout=dropout)
        if pretrained:
            net.load_state_dict(AlexNet_Weights.DEFAULT.get_state_dict(check_hash=True, weights_only=True))
        self.features, self.pool = net.features, net.avgpool
        self.fc = net.classifier[:6]
        if fc_features != 4096:
            self.fc[1], self.fc[4] = nn.Linear(256 * 6 * 6, fc_features), nn.Linear(fc_features, fc_features)
        if not pretrained:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    assert layer.bias is not None
                    nn.init.zeros_(layer.bias)
        if batch_norm:
            self.features, self.fc = _normalised(self.features), _normalised(self.fc)
        self.plain_args = {"fc_features": fc_features, "dropout": dropout, "batch_norm": False}
        self.num_features = fc_features
        self.feature_shape = (fc_features,)
        self.preprocess: dict[str, Any] = {"size": (224, 224)}

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), H and W at least 63, to features (N, fc_features)."""
        return self.fc(self.pool(self.features(images)).flatten(1))

    def fold(self) -> dict[str, Any]:
        """Merge each batch normalisation into the layer before it; return the plain network's arguments."""
        self.features, self.fc = _folded(self.features), _folded(self.fc)
        return self.plain_args


def _normalised(layers: nn.Sequential) -> nn.Sequential:
    """Put a batch normalisation after every layer with weights."""
    out: list[nn.Module] = []
    for layer in layers:
        out.append(layer)
        if isinstance(layer, nn.Conv2d):
            out.append(nn.BatchNorm2d(layer.out_channels))
        elif isinstance(layer, nn.Linear):
            out.append(nn.BatchNorm1d(layer.out_features))
    return nn.Sequential(*out)


def _folded(layers: nn.Sequential) -> nn.Sequential:
    """Take each batch normalisation out, after its scale and shift went into the layer before it."""
    out: list[nn.Module] = []
    for layer in layers:
        if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            out.append(layer)
        elif isinstance(before := out[-1], nn.Conv2d):
            out[-1] = fuse_conv_bn_eval(before, layer)
        elif isinstance(before, nn.Linear):
            out[-1] = fuse_linear_bn_eval(before, layer)
    return nn.Sequential(*out)
