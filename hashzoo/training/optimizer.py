"""How weights move: groups of parameters, the rate of a step, and a running average."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hashzoo.network import HashNetwork
from hashzoo.training.recipe import Optimization


def make_optimizer(settings: Optimization, model: HashNetwork, loss: nn.Module) -> torch.optim.Optimizer:
    """Group parameters by learning rate and weight decay; the loss's own parameters train as the head's do."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for module in (model, loss):
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            key = (module is model and name.startswith("backbone."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    parameters = [
        {
            "params": members,
            "scale": settings.backbone_lr if in_backbone else 1.0,
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
        }
        for (in_backbone, is_matrix), members in groups.items()
    ]
    # the rate is set before each step
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(parameters, lr=settings.lr)


def set_learning_rate(optimizer: Any, settings: Optimization, step: int, steps: int) -> None:
    """Set the rate of a step, counted from 0, of all steps: linear up to `lr` over the warm-up, then linear towards 0.

    No step has rate 0: the first of a warm-up of w steps has lr / (w + 1), the last of n has lr / (n - w).
    """
    warmup = settings.warmup * steps
    rate = settings.lr * min((step + 1) / (warmup + 1), (steps - step) / (steps - warmup))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def average_of(model: HashNetwork, decay: float) -> AveragedModel:
    """A copy of the model whose weights and statistics follow it: each update keeps `decay` of them (Polyak, 1992)."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
