"""timm and torchvision models as backbones."""

import contextlib
import copy
import functools
import threading
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hashzoo.config import Side
from hashzoo.errors import ConfigError, unknown
from hashzoo.machine import local_data

_READING = threading.Lock()  # torchvision has one object for the weights of a model in the whole process


class Timm(nn.Module):
    """A timm model without its classifier: images (N, 3, H, W) to its last feature map (N, D, H', W') or tokens' pool.

    Args:
        model: timm's name, e.g. `resnet50`; convolutional networks give maps, others pooled vectors.
        pretrained: fetch timm's own weights (training only), or read `$HASHZOO_DATA/weights/<model>.*.safetensors` if there is
            such a file.
        pool: give pooled vectors in any case; they are small enough to be kept for a whole data set.
        img_size: height and width of the input, pixels, of a network that is made for one size.
        output_stride: how many times smaller than the input the last map is.
        drop_rate, drop_path_rate: of dropout and stochastic depth in training.

    timm's other arguments are left out on purpose: some name files or addresses, and a config may come from anybody.
    """

    def __init__(
        self,
        model: str,
        pretrained: bool = False,
        *,
        pool: bool = False,
        img_size: Side | tuple[Side, Side] | None = None,
        output_stride: Literal[8, 16, 32] | None = None,
        drop_rate: float | None = None,
        drop_path_rate: float | None = None,
    ) -> None:
        super().__init__()
        import timm

        if not timm.is_model(model):
            raise unknown("timm model", model, timm.list_models(), "`timm.list_models()` shows all.")
        folders = local_data("weights") if pretrained else []
        files = [path for folder in folders for path in sorted(folder.glob(f"{model}.*.safetensors"))]
        # timm leaves out what is None, and pools as the model was trained
        self.model = timm.create_model(
            model,
            pretrained=pretrained,
            pretrained_cfg_overlay={"file": str(files[0])} if files else None,
            num_classes=0,
            img_size=img_size,
            output_stride=output_stride,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        cfg = self.model.pretrained_cfg
        self.base_model: str | None = cfg.get("hf_hub_id") if pretrained and not files else None
        self.weights_file: str | None = files[0].name if files else None
        size = img_size or cfg["input_size"][1:]
        size = (size, size) if isinstance(size, int) else tuple(size)
        shape = _feature_shape(self.model, (1, cfg["input_size"][0], *size))
        self.is_map = not pool and len(shape) == 3 and shape[0] == self.model.num_features
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


def _feature_shape(model: Any, images: tuple[int, ...]) -> tuple[int, ...]:
    """Tell the shape of a timm model's last features for one input, on torch's meta device, which computes no values.

    A few models read values of their tensors or keep tensors that do not move with them: those are run.
    """
    with torch.no_grad():
        try:
            shapes = copy.deepcopy(model).to("meta").eval()
            return tuple(shapes.forward_features(torch.zeros(images, device="meta")).shape[1:])
        except (RuntimeError, NotImplementedError):
            shape = tuple(model.eval().forward_features(torch.zeros(images)).shape[1:])
            model.train()
            return shape


class Torchvision(nn.Module):
    """A torchvision classification model without its last linear layer: images (N, 3, H, W) to features (N, D).

    Args:
        model: torchvision's name, e.g. `alexnet`.
        pretrained: fetch torchvision's default weights (training only).
        dropout: in training, of a network that has it.
        image_size: height and width of the input, pixels, of a network that is made for one size.
        aux_logits, init_weights: of GoogLeNet and Inception; auxiliary outputs must be off.
    """

    preprocess: dict[str, Any] = {"size": (224, 224)}  # noqa: RUF012 - a constant of the class

    def __init__(
        self,
        model: str,
        pretrained: bool = False,
        *,
        dropout: float | None = None,
        image_size: Side | None = None,
        aux_logits: bool | None = None,
        init_weights: bool | None = None,
    ) -> None:
        super().__init__()
        from torchvision import models

        names = models.list_models(module=models)
        if model not in names:
            raise unknown("torchvision model", model, names, "`torchvision.models.list_models()` shows all.")
        args = {"dropout": dropout, "image_size": image_size, "aux_logits": aux_logits, "init_weights": init_weights}
        args = {name: value for name, value in args.items() if value is not None}
        if pretrained:
            with _published_weights(model) as weights:
                self.model = models.get_model(model, weights=weights, **args)
        else:
            self.model = models.get_model(model, **args)
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


@contextlib.contextmanager
def _published_weights(model: str) -> Iterator[Any]:
    """Yield torchvision's default weights of a model; meanwhile their file is read as tensors alone, not unpickled."""
    from torchvision import models

    weights = models.get_model_weights(model).DEFAULT
    with _READING:
        weights.get_state_dict = functools.partial(type(weights).get_state_dict, weights, weights_only=True)
        try:
            yield weights
        finally:
            del weights.get_state_dict
