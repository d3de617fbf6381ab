"""timm and torchvision models as backbones."""

from typing import Any

import torch
from torch import Tensor, nn

from hashzoo.errors import ConfigError, unknown
from hashzoo.machine import local_data


class Timm(nn.Module):
    """A timm model without its classifier: images (N, 3, H, W) to its last feature map (N, D, H', W') or tokens' pool.

    Args:
        model: timm's name, e.g. `resnet50`; convolutional networks give maps, others pooled vectors.
        pretrained: fetch timm's own weights (training only), or read `$HASHZOO_DATA/weights/<model>.*.safetensors` if there is
            such a file.
        pool: give pooled vectors in any case; they are small enough to be kept for a whole data set.
        args: passed on to `timm.create_model`.
    """

    def __init__(self, model: str, pretrained: bool = False, *, pool: bool = False, **args: Any) -> None:
        super().__init__()
        import timm

        if not timm.is_model(model):
            raise unknown("timm model", model, timm.list_models(), "`timm.list_models()` shows all.")
        folders = local_data("weights") if pretrained else []
        files = [path for folder in folders for path in sorted(folder.glob(f"{model}.*.safetensors"))]
        if files:
            args = {"pretrained_cfg_overlay": {"file": str(files[0])}} | args
        # timm gives the unpooled map of a convolutional network for global_pool=""; token models pool as they were trained
        self.model = timm.create_model(model, pretrained=pretrained, num_classes=0, **args)
        cfg = self.model.pretrained_cfg
        self.base_model: str | None = cfg.get("hf_hub_id") if pretrained and not files else None
        self.weights_file: str | None = files[0].name if files else None
        size = args.get("img_size", cfg["input_size"][1:])
        size = (size, size) if isinstance(size, int) else tuple(size)
        with torch.no_grad():
            shape = self.model.eval().forward_features(torch.zeros(1, cfg["input_size"][0], *size)).shape[1:]
        self.is_map = not pool and len(shape) == 3 and shape[0] == self.model.num_features
        self.train()
        self.num_features: int = self.model.num_features if self.is_map else self.model.head_hidden_size
        self.feature_shape: tuple[int, ...] = tuple(shape) if self.is_map else (self.num_features,)
        self.preprocess: dict[str, Any] = {
            "size": size,
            "interpolation": cfg["interpolation"] if cfg["interpolation"] in ("bilinear", "bicubic") else "bicubic",
            "mean": tuple(cfg["mean"]),
            "std": tuple(cfg["std"]),
        }

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature map (N, D, H', W'), or pooled features (N, D)."""
        features: Tensor = self.model.forward_features(images)
        return features if self.is_map else self.model.forward_head(features, pre_logits=True)


class Torchvision(nn.Module):
    """A torchvision classification model without its last linear layer: images (N, 3, H, W) to features (N, D).

    Args:
        model: torchvision's name, e.g. `alexnet`.
        pretrained: fetch torchvision's default weights (training only).
        args: passed on to torchvision's builder.
    """

    preprocess: dict[str, Any] = {"size": (224, 224)}  # noqa: RUF012 - a constant of the class

    def __init__(self, model: str, pretrained: bool = False, **args: Any) -> None:
        super().__init__()
        from torchvision import models

        names = models.list_models(module=models)
        if model not in names:
            raise unknown("torchvision model", model, names, "`torchvision.models.list_models()` shows all.")
        self.model = models.get_model(model, weights="DEFAULT" if pretrained else None, **args)
        if getattr(self.model, "aux_logits", False):
            raise ConfigError(f"torchvision/{model} has auxiliary outputs; pass aux_logits = false, or choose another.")
        for name, module in reversed(list(self.model.named_modules())):
            if isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, nn.Identity())
                break
        else:
            raise ConfigError(f"torchvision/{model} ends in no linear layer that could be taken off; choose another.")
        self.num_features: int = module.in_features
        self.feature_shape: tuple[int, ...] = (self.num_features,)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (N, D)."""
        return self.model(images)
