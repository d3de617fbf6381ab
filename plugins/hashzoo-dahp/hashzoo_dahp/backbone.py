"""ResNet18 whose stem fits ImageNet-sized or CIFAR-sized images."""

from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from hashzoo import ConfigError


class ResNet18(nn.Module):
    """ResNet18 (He et al., CVPR 2016) up to its last feature map.

    Args:
        pretrained: fetch torchvision's ImageNet weights (training only; with the CIFAR stem all but the first layer).
        stem: "imagenet" is 7x7 stride 2 and max-pool, 32 times smaller maps; "cifar" is 3x3 stride 1 without pool, 8 times
            smaller: position attention needs a map of more than one position, so small images want it.

    Shapes: images (N, 3, H, W) to (N, 512, H/32, W/32), or (N, 512, H/8, W/8) with the CIFAR stem.
    """

    def __init__(self, pretrained: bool = False, stem: Literal["imagenet", "cifar"] = "imagenet") -> None:
        super().__init__()
        if stem not in ("imagenet", "cifar"):
            raise ConfigError(f"ResNet18's stem is 'imagenet' or 'cifar', not {stem!r}.")
        net = resnet18()
        if pretrained:
            net.load_state_dict(ResNet18_Weights.DEFAULT.get_state_dict(check_hash=True, weights_only=True))
        if stem == "cifar":
            first = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
            self.stem = nn.Sequential(first, net.bn1, net.relu)
        else:
            self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.Sequential(net.layer1, net.layer2, net.layer3, net.layer4)
        self.num_features = 512
        self.feature_shape = (512, 4, 4) if stem == "cifar" else (512, 7, 7)
        self.preprocess: dict[str, Any] = {"size": (32, 32) if stem == "cifar" else (224, 224)}

    def forward(self, images: Tensor) -> Tensor:
        """Return the last feature map."""
        return self.stages(self.stem(images))
