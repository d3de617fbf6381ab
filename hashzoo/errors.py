"""Errors whose message is one sentence that names the thing and the way out."""

import difflib
import importlib.util
import reprlib
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from hashzoo.text import clean


class HashzooError(Exception):
    """Base of every error that hashzoo raises for bad input; the command line prints it without a traceback.

    Its message is one line, whatever the names and answers that it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(clean(message))


class UnknownNameError(HashzooError, LookupError):
    """A name that nothing is registered under."""


class PluginError(HashzooError):
    """A plugin that cannot be loaded, or that registers something it may not."""


class MissingExtraError(HashzooError, ImportError):
    """An extra of hashzoo that is not installed."""


class ConfigError(HashzooError, ValueError):
    """A config, recipe or results file that does not follow its schema."""


class WeightsError(HashzooError):
    """Weights that do not fit their config, or whose checksum is wrong."""


class HubError(HashzooError):
    """The Hub refuses, fails, or answers what cannot be trusted."""


class UnreachableError(HubError):
    """There is no way to the Hub."""


class ImageError(HashzooError, ValueError):
    """An image that cannot be read.

    Attributes:
        position: which it is of those that were to be encoded, from 0.
    """

    position: int = 0


class CodesError(HashzooError, ValueError):
    """Codes, ids or an index that do not belong together."""


class DataError(HashzooError):
    """A data set that is missing, or lacks what a protocol needs."""


def unknown(kind: str, name: str, known: Iterable[str], way_out: str) -> UnknownNameError:
    """Make the error for a mistyped name, with close matches.

    >>> str(unknown("model", "dahb", ["dahp", "dsbh"], "`hashzoo list` shows all."))
    "No model is named 'dahb' (did you mean 'dahp'?); `hashzoo list` shows all."
    """
    return UnknownNameError(f"No {kind} is named {name!r}{did_you_mean(name, known)}; {way_out}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Offer close matches of a mistyped name, in brackets; nothing if there are none."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(repr(match) for match in close)}?)" if close else ""


def short(value: object) -> str:
    """Show a value in at most 60 characters; of a deep or long one only the beginning is looked at."""
    text = reprlib.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def install_line(*packages: str) -> str:
    """Write the command that installs packages into the environment that runs this process.

    Args:
        packages: names, with extras or options as pip takes them.

    >>> install_line("hashzoo[train]")  # doctest: +ELLIPSIS
    "...python... install ...'hashzoo[train]'"
    """
    quoted = shlex.join(packages)
    if Path(sys.prefix, "uv-receipt.toml").is_file():  # `uv tool` made this environment, and makes it anew each time
        own = [name for name in packages if name.startswith("hashzoo[")]
        others = [part for name in packages if name not in ("hashzoo", *own) for part in _tool_option(name)]
        return shlex.join(["uv", "tool", "install", *(own or ["hashzoo"]), *others])
    if importlib.util.find_spec("pip") is None:  # uv makes environments without pip
        return f"uv pip install --python {shlex.quote(sys.executable)} {quoted}"
    return f"{shlex.quote(sys.executable)} -m pip install {quoted}"


def _tool_option(name: str) -> list[str]:
    return [name] if name.startswith("-") else ["--with", name]


def require_extra(extra: str, *modules: str) -> None:
    """Refuse work before it starts whose modules come with an extra of hashzoo that is not installed.

    Raises:
        MissingExtraError: names the modules that are missing, and the command that installs them.

    >>> require_extra("train", "json")
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"This needs the extra hashzoo[{extra}] ({', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not "
            f"installed); install it with `{install_line(f'hashzoo[{extra}]')}`."
        )
