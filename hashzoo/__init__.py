"""hashzoo: a model zoo for deep hashing.

>>> import hashzoo
>>> [info.name for info in hashzoo.list_models("dahp-resnet18-*bit", bits=48, dataset="cifar10")]
['dahp-resnet18-cifar10-48bit']
"""

import importlib
import re
from pathlib import Path
from typing import Any

# public name -> the module that holds it, imported on first use, so that `import hashzoo` loads no torch
_PUBLIC = {
    name: module
    for module, name in re.findall(
        r"^from (\S+) import (\S+) as", Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"), re.MULTILINE
    )
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
