"""Runs a network by torch, where its weights are."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from hashzoo.config import PreprocessConfig
from hashzoo.machine import run_alone
from hashzoo.precision import Precision, check_precision, without_tf32

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

M = TypeVar("M", bound=nn.Module)


class TorchEngine:
    """A network in evaluation mode, in one precision; what `hashzoo.encoder` asks for codes.

    It sees the network's weights as they are when a batch runs, and leaves its modules as they are: a network may be trained
    in one thread while another encodes with it.

    Args:
        network: a `hashzoo.HashNetwork`, on its device.
        precision: "float32" makes codes that are the same on every machine up to rounding, so it takes no TF32 on CUDA either;
            "bfloat16" is autocast.

    Raises:
        CodesError: there is no such precision.
    """

    def __init__(self, network: Any, precision: Precision = "float32") -> None:
        self.precision = check_precision(precision)
        self.name, self.bits, self.weights_id = network.name, network.bits, network.weights_id
        self.preprocess: PreprocessConfig = network.preprocess.config
        self.network = evaluation_view(network)

    def run(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map fitted pictures, uint8 (N, h, w, 3), to u, float32 (N, K)."""
        return self.relaxed(torch.from_numpy(pictures).permute(0, 3, 1, 2)).numpy()

    def relaxed(self, batch: Tensor) -> Tensor:
        """Map fitted pictures, uint8 (N, 3, h, w), to u, float32 (N, K) on the CPU."""

        def run() -> Tensor:
            with self.running():
                return self.network(self.network.preprocess.normalise(batch.to(self.network.device))).u.float().cpu()

        return run_alone(run) if self.network.device.type == "cpu" else run()

    @contextlib.contextmanager
    def running(self) -> Iterator[Any]:
        """Give the network in evaluation mode; inside, torch keeps no gradients and computes in the engine's precision."""
        kind = self.network.device.type
        with (
            torch.no_grad(),
            torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bfloat16"),
            without_tf32 if kind == "cuda" else contextlib.nullcontext(),
        ):
            yield self.network


def evaluation_view(module: M) -> M:
    """Give a module in evaluation mode that shares all tensors with `module`, which stays in its own mode.

    The parts of the view are new objects that hold the same parameters and buffers, so a step of an optimizer, or a move to
    another device, is seen in both.

    >>> layer = nn.Sequential(nn.Dropout())
    >>> evaluation_view(layer)[0].training, layer[0].training
    (False, True)
    """
    seen: dict[nn.Module, nn.Module] = {}

    def view(part: nn.Module) -> nn.Module:
        if part not in seen:
            seen[part] = twin = copy.copy(part)
            twin.training = False
            twin.__dict__["_modules"] = {
                name: None if child is None else view(child) for name, child in part._modules.items()
            }
        return seen[part]

    return view(module)  # type: ignore[return-value]
