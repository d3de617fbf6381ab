"""Finds plugins, and knows every component and who owns it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.resources
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from hashzoo import hookspecs
from hashzoo.arguments import check_args
from hashzoo.errors import HashzooError, PluginError, short, unknown

GROUP = "hashzoo.plugins"
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
_TARGET = re.compile(r"\w+(\.\w+)*:[^:]+")


@dataclass(frozen=True)
class Component:
    """One registered thing: its kind, name, owner, and the target that is imported on first use."""

    kind: str
    name: str
    owner: str
    target: str | Callable[..., Any]
    summary: str

    def beside(self, name: str) -> Component:
        """The same, with another file of the method's package as target."""
        return dataclasses.replace(self, target=f"{str(self.target).partition(':')[0]}:{name}")

    def load(self) -> Any:
        """Import the target and return it; for a method, return the text of its recipe.

        Raises:
            PluginError: the target is not there; names the package that owns it.
        """
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            if self.kind == "method":
                return importlib.resources.files(module).joinpath(attribute).read_text(encoding="utf-8")
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # whatever a third party's module raises is the plugin's fault
            raise PluginError(
                f"The {self.kind} {self.name!r} of package {self.owner} cannot be imported from {self.target!r} "
                f"({type(error).__name__}: {error}); update or reinstall {self.owner}."
            ) from error


@dataclass(frozen=True)
class Plugin:
    """One entry point: who ships it, what it registered, or why it failed.

    Attributes:
        error: what went wrong, if it is broken.
        where: the line to fix then, as "file:line", or the entry point's own line where there is no code to blame.
        api: the version of the hooks that its module was written for (`hashzoo_api`; 1 where it says nothing).
    """

    name: str
    distribution: str
    version: str
    components: tuple[Component, ...] = ()
    error: str | None = None
    where: str | None = None
    api: int = hookspecs.API_VERSION


def _collect(name: str, distribution: str, version: str, module: ModuleType) -> Plugin:
    """Run the hooks of one plugin in a manager of its own, so that no plugin can disturb another."""
    api = getattr(module, "hashzoo_api", hookspecs.API_VERSION)
    if api != hookspecs.API_VERSION:
        raise PluginError(
            f"it is written for version {api!r} of the hooks, this hashzoo has {hookspecs.API_VERSION}; update both with "
            f"`pip install --upgrade hashzoo {distribution}`"
        )
    for hook in (attribute for attribute in dir(module) if attribute.startswith("hashzoo_register_")):
        if callable(function := getattr(module, hook)) and not hasattr(function, "hashzoo_impl"):
            raise PluginError(f"{hook} is not marked as a hook; put @hookimpl (from hashzoo import hookimpl) above it")
    manager = pluggy.PluginManager("hashzoo")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()  # an unknown hook name is an error of this plugin
    found: dict[tuple[str, str], Component] = {}
    for kind, hook in HOOKS.items():

        def register(name: str, target: str | type, *, summary: str, kind: str = kind) -> None:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise PluginError(f"{name!r} is no valid name for a {kind}: use lower-case letters, digits, - _ .")
            if not isinstance(target, type) and not (isinstance(target, str) and _TARGET.fullmatch(target)):
                raise PluginError(
                    f"The target of {kind} {name!r} must be a class or read 'package.module:Name', not {target!r}"
                )
            if (kind, name) in found:
                raise PluginError(f"{kind} {name!r} is registered twice")
            found[kind, name] = Component(kind, name, distribution, target, summary)

        getattr(manager.hook, hook)(register=register)
    return Plugin(name, distribution, version, tuple(found.values()), api=api)


def _line_to_fix(error: BaseException, point: importlib.metadata.EntryPoint, module: ModuleType | None) -> str:
    """Find the plugin's own last line on the way to an error, as "file:line"."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    ours = ("<", *(f"{Path(str(package.__file__)).parent}{os.sep}" for package in (hookspecs, pluggy, importlib)))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    if frames:
        entry = Path(frames[0].filename)
        package = f"{entry.parent}{os.sep}" if entry.name == "__init__.py" else str(entry)
        own = [frame for frame in frames if frame.filename.startswith(package)]  # not in code of others that it calls
        return f"{own[-1].filename}:{own[-1].lineno}"
    named = re.search(r"hashzoo_register_\w+", str(error))  # pluggy and we refuse a hook before it runs
    code = getattr(getattr(module, named[0], None), "__code__", None) if named else None
    return f"{code.co_filename}:{code.co_firstlineno}" if code else f"entry point {point.name} = {point.value}"


class Registry:
    """All plugins and their components.

    Args:
        plugins: what `discover` found, or made by hand in a test.
    """

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self.plugins = tuple(plugins)

    def add(self, module: ModuleType, distribution: str) -> None:
        """Run the hooks of a module that no installed package names, as if `distribution` did.

        Raises:
            PluginError: it registers something it may not.
        """
        self.plugins += (_collect(distribution, distribution, "0", module),)

    def components(self, kind: str) -> list[Component]:
        """Every component of a kind, built-ins first, then by package."""
        return [item for plugin in self.plugins for item in plugin.components if item.kind == kind]

    def clashes(self) -> dict[tuple[str, str], list[str]]:
        """Names that more than one package registers: (kind, name) -> packages."""
        owners: dict[tuple[str, str], list[str]] = {}
        for plugin in self.plugins:
            for item in plugin.components:
                owners.setdefault((item.kind, item.name), []).append(item.owner)
        return {key: packages for key, packages in owners.items() if len(packages) > 1}

    def get(self, kind: str, name: str) -> tuple[Component, dict[str, str]]:
        """Find a component by `name`, `package/name` or a family name such as `timm/resnet50`.

        Returns:
            The component, and the keyword arguments its name carries (`{"model": "resnet50"}` for a family).

        Raises:
            PluginError: two packages register the name.
            UnknownNameError: nobody does; the message offers close matches.
        """
        items = self.components(kind)
        found: list[tuple[Component, dict[str, str]]] = [
            (item, {}) for item in items if name in (item.name, f"{item.owner}/{item.name}")
        ] or [
            (item, {"model": name[len(prefix) - 1 :]})
            for item in items
            for prefix in (item.name, f"{item.owner}/{item.name}")
            if prefix.endswith("/*") and name.startswith(prefix[:-1]) and len(name) >= len(prefix)
        ]
        if len(found) > 1:
            first, second = found[0][0].owner, found[1][0].owner
            raise PluginError(
                f"Both {first} and {second} register a {kind} named {name!r}; "
                f"write '{first}/{name}' or '{second}/{name}'."
            )
        if found:
            return found[0]
        broken = [f"{plugin.distribution} (broken: {plugin.error})" for plugin in self.plugins if plugin.error]
        way_out = "`hashzoo plugins` shows what is installed"
        raise unknown(kind, name, [item.name for item in items], "; ".join([way_out, *broken]) + ".")

    def check_args(self, kind: str, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """Check what a file says in `args` against a component's constructor; see `hashzoo.arguments.check_args`.

        Raises:
            ConfigError, PluginError: as there.
            UnknownNameError, PluginError: as `get` and `Component.load`.
        """
        component, extra = self.get(kind, name)
        return check_args(_what(component, name), component.load(), args, (*GIVEN[kind], *extra))

    def build(self, kind: str, name: str, /, **arguments: Any) -> Any:
        """Import a component and build it.

        Raises:
            PluginError: its class cannot be built with these arguments; a HashzooError of its own comes through as it is.
        """
        component, extra = self.get(kind, name)
        target = component.load()
        try:
            return target(**extra, **arguments)
        except HashzooError:
            raise
        except (Exception, SystemExit) as error:  # whatever a constructor raises is about what it was given
            given = ", ".join(f"{key}={short(value)}" for key, value in arguments.items()) or "no arguments"
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".:")
            raise PluginError(f"{_what(component, name)} cannot be built with {given} ({reason[:300]}).") from error


def _what(component: Component, name: str) -> str:
    """Begin a sentence about a component that was asked for by `name`."""
    return f"The {component.kind} {name.removeprefix(f'{component.owner}/')!r} of {component.owner}"


def discover() -> Registry:
    """Load the built-ins and every installed plugin, each on its own.

    `HASHZOO_PLUGINS` limits plugins to the listed entry points or packages (empty: none but the built-ins);
    `HASHZOO_STRICT_PLUGINS=1` raises on the first broken or clashing plugin instead of listing it.
    """
    strict = os.environ.get("HASHZOO_STRICT_PLUGINS") == "1"
    limit = os.environ.get("HASHZOO_PLUGINS")
    wanted = None if limit is None else {part.strip() for part in limit.split(",") if part.strip()}
    version = importlib.metadata.version("hashzoo")
    plugins = [_collect("builtin", "hashzoo", version, importlib.import_module("hashzoo.builtin"))]
    entry_points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: (_owner(point), point.name))
    for point in entry_points:
        owner = _owner(point)
        if wanted is not None and not {point.name, owner} & wanted:
            continue
        release = point.dist.version if point.dist else ""
        module = None
        try:
            module = point.load()
            plugins.append(_collect(point.name, owner, release, module))
        except (Exception, SystemExit) as error:  # whatever a third party's import raises must not stop the others
            if strict:
                raise PluginError(f"Plugin {point.name!r} of {owner} is broken: {error}.") from error
            where = _line_to_fix(error, point, module)
            plugins.append(Plugin(point.name, owner, release, error=f"{type(error).__name__}: {error}", where=where))
    registry = Registry(plugins)
    if strict and registry.clashes():
        (kind, name), owners = next(iter(registry.clashes().items()))
        raise PluginError(f"Both {owners[0]} and {owners[1]} register a {kind} named {name!r}; remove one of them.")
    return registry


def _owner(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.value.partition(".")[0]


_installed = functools.cache(discover)
_chosen: ContextVar[Registry | None] = ContextVar("hashzoo_registry", default=None)


def registry() -> Registry:
    """The registry in force: that of the installed packages, discovered once, unless `using` chose another."""
    chosen = _chosen.get()
    return _installed() if chosen is None else chosen


@contextlib.contextmanager
def using(chosen: Registry) -> Iterator[Registry]:
    """Put a registry in force within a block, as tests do.

    >>> with using(Registry([])):
    ...     registry().components("head")
    []
    """
    token = _chosen.set(chosen)
    try:
        yield chosen
    finally:
        _chosen.reset(token)
