"""What a plugin registers: components and methods, and the callback that takes them."""

from __future__ import annotations

import copy
import importlib
import importlib.resources
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hashzoo.errors import PluginError, short

HOOKS = {
    "backbone": "hashzoo_register_backbones",
    "head": "hashzoo_register_heads",
    "loss": "hashzoo_register_losses",
    "quantizer": "hashzoo_register_quantizers",
    "method": "hashzoo_register_methods",
}
GIVEN = {  # the arguments that hashzoo itself gives a component, which therefore no config or recipe may set
    "backbone": ("pretrained",),
    "head": ("feature_shape", "bits", "num_classes"),
    "loss": ("bits", "num_classes", "multi_label"),
    "quantizer": (),
}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/\*)?")
_TARGET = re.compile(r"\w+(\.\w+)*:[^:\n=]+")


@dataclass(frozen=True)
class Component:
    """One registered thing: its kind, name, owner, and the target that is imported on first use.

    Attributes:
        target: a class or "package.module:Class"; of a method "package:recipe.toml", the text of a recipe, or its tables.
    """

    kind: str
    name: str
    owner: str
    target: str | Callable[..., Any] | Mapping[str, Any]
    summary: str

    def load(self) -> Any:
        """Import the target and return it.

        Raises:
            PluginError: the target is not there; names the package that owns it.
        """
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # whatever a third party's module raises is the plugin's fault
            raise self._missing(error) from error

    def recipe_layers(self) -> list[dict[str, Any]]:
        """Read a method's recipe: the file that its `base` names, if it has one, then the recipe itself, as tables.

        Raises:
            PluginError: a file is missing or is no TOML; names the package, the file and the line.
        """
        if isinstance(self.target, Mapping):
            return [copy.deepcopy(dict(self.target))]
        assert isinstance(self.target, str)  # as `Registrar` takes it
        if not _is_target(self.target):
            return [self._parse(self.target, f"the text that package {self.owner} registers")]
        package, _, name = self.target.partition(":")
        layers = [self._read(package, name)]
        if isinstance(base := layers[0].pop("base", None), str):
            layers.insert(0, self._read(package, base))
        return layers

    def _read(self, package: str, name: str) -> dict[str, Any]:
        try:
            file = importlib.resources.files(package).joinpath(name)
            text = file.read_text(encoding="utf-8")
        except (Exception, SystemExit) as error:
            raise self._missing(error) from error
        return self._parse(text, str(file))

    def _parse(self, text: str, where: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            line = re.search(r"at line (\d+)", str(error))
            raise PluginError(
                f"The recipe of method {self.name!r} of package {self.owner} is no TOML ({error}); "
                f"fix {where}{f':{line[1]}' if line else ''}."
            ) from error

    def _missing(self, error: BaseException) -> PluginError:
        return PluginError(
            f"The {self.kind} {self.name!r} of package {self.owner} cannot be imported from {self.target!r} "
            f"({type(error).__name__}: {error}); update or reinstall {self.owner}."
        )


class Registrar:
    """The callback that one hook of one plugin receives; it registers components of one kind.

    Args:
        kind: of component.
        owner: the package that registers.

    Attributes:
        found: what was registered.
    """

    def __init__(self, kind: str, owner: str) -> None:
        self._kind, self._owner = kind, owner
        self.found: dict[str, Component] = {}

    def __call__(self, name: str, target: str | type | Mapping[str, Any], *, summary: str) -> None:
        """Register `target` under `name`, as `hashzoo.hookspecs.Register` says.

        Raises:
            PluginError: the name or the target is none, or the name is taken by this plugin.
        """
        kind = self._kind
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise PluginError(f"{name!r} is no valid name for a {kind}: use lower-case letters, digits, - _ .")
        if kind == "method":
            fits = isinstance(target, Mapping) or (isinstance(target, str) and ("=" in target or _is_target(target)))
            wanted = "be a dict, be the text of a recipe, or read 'package:recipe.toml'"
        else:
            fits = isinstance(target, type) or (isinstance(target, str) and _is_target(target))
            wanted = "be a class or read 'package.module:Name'"
        if not fits:
            raise PluginError(f"The target of {kind} {name!r} must {wanted}, not {short(target)}")
        if name in self.found:
            raise PluginError(f"{kind} {name!r} is registered twice")
        self.found[name] = Component(kind, name, self._owner, target, summary)


def _is_target(text: str) -> bool:
    return _TARGET.fullmatch(text) is not None
