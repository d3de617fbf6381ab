"""The zoo: names to folders, folders to models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hashzoo.zoo.index import ModelInfo, list_models, resolve

if TYPE_CHECKING:
    from hashzoo.model import HashModel

__all__ = ["ModelInfo", "list_models", "load", "resolve"]


def load(name: str, device: str | None = None) -> HashModel:
    """Load a trained model by name.

    Args:
        name: a name of the zoo (`hashzoo list`), or `local-dir:PATH` for a model's folder.
        device: "cpu" or "cuda"; default CUDA where there is one. On CUDA the network runs in bfloat16, on the CPU in float32;
            `encode(..., precision=...)` says otherwise.

    Raises:
        UnknownNameError: no such model; the message offers close matches.
        ConfigError, WeightsError: the folder is not whole; nothing half-read is returned.
        PluginError: a component's package is not installed; the message names it.

    >>> model = load("dsbh-cnn3-cifar10-48bit", device="cpu")
    >>> model.name, model.bits
    ('dsbh-cnn3-cifar10-48bit', 48)
    """
    import torch

    from hashzoo.errors import HashzooError
    from hashzoo.zoo.folder import open_folder

    folder = resolve(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        return open_folder(folder).to(target).to(memory_format=torch.channels_last)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise HashzooError(f"Device {device!r} cannot be used ({reason}); use device='cpu'.") from error
