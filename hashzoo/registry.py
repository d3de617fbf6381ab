"""Finds plugins, and knows every component and who owns it."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import re
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from hashzoo import hookspecs
from hashzoo.arguments import check_args
from hashzoo.component import GIVEN as GIVEN
from hashzoo.component import HOOKS as HOOKS
from hashzoo.component import Component as Component
from hashzoo.component import Registrar
from hashzoo.errors import HashzooError, PluginError, install_line, short, unknown

GROUP = "hashzoo.plugins"
SESSION = "hashzoo.register"  # owns what `register` adds; no package has this name
MOVED = {  # what hashzoo-baselines registered in hashzoo 0.1, and the core registers now
    ("hashzoo-baselines", kind, name)
    for kind, names in {"head": ("lsh", "pca", "itq"), "method": ("lsh", "pca-sign", "pca-rotation", "itq")}.items()
    for name in names
}


@dataclass(frozen=True)
class Plugin:
    """One entry point: who ships it, what it registered, or why it failed.

    Attributes:
        error: what went wrong, if it is broken.
        where: the line to fix then, as "file:line", or the entry point's own line where there is no code to blame.
        api: the version of the hooks that its module was written for (`hashzoo_api`; 1 where it says nothing).
        notice: that this version is old, and until when it is served; else None.
    """

    name: str
    distribution: str
    version: str
    components: tuple[Component, ...] = ()
    error: str | None = None
    where: str | None = None
    api: int = hookspecs.API_VERSION
    notice: str | None = None


def _collect(name: str, distribution: str, version: str, module: ModuleType) -> Plugin:
    """Run the hooks of one plugin in a manager of its own, so that no plugin can disturb another."""
    api = getattr(module, "hashzoo_api", 1)
    notice = _notice_of_api(api, distribution)
    for hook in (attribute for attribute in dir(module) if attribute.startswith("hashzoo_register_")):
        if callable(function := getattr(module, hook)) and not hasattr(function, "hashzoo_impl"):
            raise PluginError(f"{hook} is not marked as a hook; put @hookimpl (from hashzoo import hookimpl) above it")
    manager = pluggy.PluginManager("hashzoo")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name)
    manager.check_pending()  # an unknown hook name is an error of this plugin
    found: list[Component] = []
    for kind, hook in HOOKS.items():
        registrar = Registrar(kind, distribution)
        getattr(manager.hook, hook)(register=registrar)
        found += [item for item in registrar.found.values() if (distribution, kind, item.name) not in MOVED]
    return Plugin(name, distribution, version, tuple(found), api=api, notice=notice)


def _notice_of_api(api: object, distribution: str) -> str | None:
    """Say until when a plugin of an older version of the hooks is served; None if its version is today's.

    Raises:
        PluginError: its version is served no longer, or not yet.
    """
    if api == hookspecs.API_VERSION:
        return None
    update = install_line("--upgrade", "hashzoo", distribution)
    if not isinstance(api, int) or api not in hookspecs.OLD_API_VERSIONS:
        raise PluginError(
            f"it is written for version {api!r} of the hooks, this hashzoo has {hookspecs.API_VERSION}; "
            f"update both with `{update}`"
        )
    notice = (
        f"it is written for version {api} of the hooks, which hashzoo serves until {hookspecs.OLD_API_VERSIONS[api]}; "
        f"update it with `{update}`"
    )
    warnings.warn(f"The plugin {distribution}: {notice}.", FutureWarning, stacklevel=2)
    return notice


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

    def register(self, kind: str, name: str, target: type | str | Mapping[str, Any], *, summary: str = "") -> None:
        """Register one thing for the rest of this process; see the function `register`."""
        if kind not in HOOKS:
            raise unknown("kind of component", kind, HOOKS, f"the kinds are {', '.join(HOOKS)}.")
        registrar = Registrar(kind, SESSION)
        registrar(name, target, summary=summary)
        if taken := [item.owner for item in self.components(kind) if item.name == name and item.owner != SESSION]:
            raise PluginError(f"{taken[0]} registers a {kind} named {name!r}; choose another name.")
        others = [plugin for plugin in self.plugins if plugin.distribution != SESSION]
        before = [item for plugin in self.plugins if plugin.distribution == SESSION for item in plugin.components]
        kept = [item for item in before if (item.kind, item.name) != (kind, name)]
        session = Plugin(SESSION, SESSION, "0", (*kept, *registrar.found.values()))
        self.plugins = (*others, session)

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
        owner, _, own = name.partition("/")
        if (owner, kind, own) in MOVED:
            name = f"hashzoo/{own}"
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


def register(kind: str, name: str, target: type | str | Mapping[str, Any], *, summary: str = "") -> None:
    """Register a component or a method for the rest of this process, as a notebook does; a package uses hooks.

    Registering the name again replaces what was registered, so that a cell can be run twice.

    Args:
        kind: "backbone", "head", "loss", "quantizer" or "method".
        name: lower-case letters, digits, `-`, `_`, `.`.
        target: the class; of a method its recipe, as a dict or a TOML text.
        summary: one line for listings.

    Raises:
        UnknownNameError: there is no such kind.
        PluginError: the name or the target is not valid, or a package registers this name.

    >>> import torch
    >>> class Softsign(torch.nn.Module):
    ...     def forward(self, u):
    ...         return u / (1 + u.abs()) if self.training else torch.where(u >= 0, 1.0, -1.0)
    >>> with using(discover()):
    ...     register("quantizer", "softsign", Softsign, summary="u / (1 + |u|)")
    ...     registry().build("quantizer", "softsign")
    Softsign()
    """
    registry().register(kind, name, target, summary=summary)


def package_of(kind: str, name: str, package: str | None) -> str:
    """Name the package whose code a component of a config needs: what the core has taken over from another is the core's.

    >>> package_of("head", "best", "my-heads"), package_of("head", "itq", "hashzoo-baselines"), package_of("head", "linear", None)
    ('my-heads', 'hashzoo', 'hashzoo')
    """
    return "hashzoo" if package is None or (package, kind, name) in MOVED else package


@functools.cache
def is_installed(package: str) -> bool:
    """Say whether a package is installed, by its metadata alone; nothing of it is imported."""
    try:
        importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True


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
