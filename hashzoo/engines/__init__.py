"""What runs a network on pictures. A new engine is a module here whose class is an `Encoder`, and a row of ENGINES."""

import importlib
from typing import Any

from hashzoo.errors import unknown
from hashzoo.hookspecs import Encoder
from hashzoo.precision import Precision

ENGINES = {"torch": "hashzoo.engines.torch:TorchEngine"}  # built as `target(network, precision)`


def start_engine(network: Any, precision: Precision = "float32", engine: str = "torch") -> Encoder:
    """Make a network ready to encode.

    Args:
        network: a `hashzoo.HashNetwork`, on its device.
        precision: of its codes.
        engine: a name of ENGINES.

    Raises:
        UnknownNameError: there is no such engine.
        CodesError: there is no such precision.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES, f"there are {', '.join(ENGINES)}.")
    module, _, name = ENGINES[engine].partition(":")
    started: Encoder = getattr(importlib.import_module(module), name)(network, precision)
    return started
