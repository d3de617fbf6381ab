"""Errors whose message is one sentence that names the thing and the way out."""

import difflib
import reprlib
from collections.abc import Iterable

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


class ConfigError(HashzooError, ValueError):
    """A config, recipe or results file that does not follow its schema."""


class WeightsError(HashzooError):
    """Weights that do not fit their config, or whose checksum is wrong."""


class HubError(HashzooError):
    """The Hub refuses, fails, or answers what cannot be trusted."""


class UnreachableError(HubError):
    """There is no way to the Hub."""


class ImageError(HashzooError, ValueError):
    """An image that cannot be read."""


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
