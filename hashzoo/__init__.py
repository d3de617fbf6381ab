"""hashzoo: a model zoo for deep hashing.

>>> import hashzoo
>>> [info.name for info in hashzoo.list_models("dahp-resnet18-*bit", bits=48, dataset="cifar10")]
['dahp-resnet18-cifar10-48bit']
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashzoo.builtin.losses import classification as classification
    from hashzoo.builtin.losses import pairwise_likelihood as pairwise_likelihood
    from hashzoo.builtin.quantizers import sign as sign
    from hashzoo.codes import Codes as Codes
    from hashzoo.errors import CodesError as CodesError
    from hashzoo.errors import ConfigError as ConfigError
    from hashzoo.errors import DataError as DataError
    from hashzoo.errors import HashzooError as HashzooError
    from hashzoo.errors import HubError as HubError
    from hashzoo.errors import ImageError as ImageError
    from hashzoo.errors import PluginError as PluginError
    from hashzoo.errors import UnknownNameError as UnknownNameError
    from hashzoo.errors import UnreachableError as UnreachableError
    from hashzoo.errors import WeightsError as WeightsError
    from hashzoo.evaluation import evaluate as evaluate
    from hashzoo.hookspecs import Backbone as Backbone
    from hashzoo.hookspecs import HashOutput as HashOutput
    from hashzoo.hookspecs import Head as Head
    from hashzoo.hookspecs import Loss as Loss
    from hashzoo.hookspecs import Quantizer as Quantizer
    from hashzoo.hookspecs import Register as Register
    from hashzoo.hookspecs import hookimpl as hookimpl
    from hashzoo.index import Hits as Hits
    from hashzoo.index import Index as Index
    from hashzoo.index import RangeHits as RangeHits
    from hashzoo.model import HashModel as HashModel
    from hashzoo.registry import register as register
    from hashzoo.training import train as train
    from hashzoo.zoo import list_models as list_models
    from hashzoo.zoo import load as load

    __version__: str

# Public name -> the module that holds it; imported on first use, so that `import hashzoo` loads no torch.
_PUBLIC = {
    "Codes": "hashzoo.codes",
    "Index": "hashzoo.index",
    "Hits": "hashzoo.index",
    "RangeHits": "hashzoo.index",
    "HashModel": "hashzoo.model",
    "load": "hashzoo.zoo",
    "list_models": "hashzoo.zoo",
    "register": "hashzoo.registry",
    "train": "hashzoo.training",
    "evaluate": "hashzoo.evaluation",
    "hookimpl": "hashzoo.hookspecs",
    "Register": "hashzoo.hookspecs",
    "HashOutput": "hashzoo.hookspecs",
    "Backbone": "hashzoo.hookspecs",
    "Head": "hashzoo.hookspecs",
    "Loss": "hashzoo.hookspecs",
    "Quantizer": "hashzoo.hookspecs",
    "HashzooError": "hashzoo.errors",
    "ConfigError": "hashzoo.errors",
    "CodesError": "hashzoo.errors",
    "DataError": "hashzoo.errors",
    "HubError": "hashzoo.errors",
    "ImageError": "hashzoo.errors",
    "PluginError": "hashzoo.errors",
    "UnknownNameError": "hashzoo.errors",
    "UnreachableError": "hashzoo.errors",
    "WeightsError": "hashzoo.errors",
    "pairwise_likelihood": "hashzoo.builtin.losses",
    "classification": "hashzoo.builtin.losses",
    "sign": "hashzoo.builtin.quantizers",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hashzoo")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hashzoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
