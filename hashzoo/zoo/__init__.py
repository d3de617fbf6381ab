"""The zoo: names to folders, folders to models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hashzoo.zoo.names import ModelInfo, list_models, resolve

if TYPE_CHECKING:
    from hashzoo.model import HashModel

__all__ = ["ModelInfo", "list_models", "load", "resolve"]


def load(name: str, device: str | None = None) -> HashModel:
    """Load a trained model by name.

    Args:
        name: a name of the zoo (`hashzoo list`), `local-dir:PATH` for a model's folder, or `hf-hub:org/name[@revision]`.
        device: "cpu" or "cuda"; default CUDA where there is one. On either the network runs in float32;
            `encode(..., precision="bfloat16")` says otherwise.

    Raises:
        UnknownNameError: no such model; the message offers close matches.
        ConfigError, WeightsError: the folder is not whole; nothing half-read is returned.
        PluginError: a component's package is not installed; the message names it.
        HashzooError: the device cannot be used.

    >>> model = load("dsbh-cnn3-cifar10-48bit", device="cpu")
    >>> model.name, model.bits
    ('dsbh-cnn3-cifar10-48bit', 48)
    """
    import torch

    from hashzoo.machine import choose_device
    from hashzoo.zoo.folder import open_folder

    device = choose_device(device)
    return open_folder(resolve(name)).to(device).to(memory_format=torch.channels_last)
