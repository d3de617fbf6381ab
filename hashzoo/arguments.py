"""What a file may say in a component's `args`: arguments of its constructor, by name and by type."""

from __future__ import annotations

import inspect
import json
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hashzoo.errors import ConfigError, PluginError, did_you_mean, short


def check_args(what: str, target: Callable[..., Any], args: Mapping[str, Any], given: Iterable[str]) -> dict[str, Any]:
    """Check the `args` of a config or recipe against the signature of the component that they are for.

    A file may set the arguments that the signature names, except those that hashzoo gives. Their types may be bool, int,
    float, None and Literal, and unions, tuples and lists of these. A free text is not among them, because it could name a
    file or an address. What only `**kwargs` would take is refused. An old name that the class attribute `renamed` lists is
    read with a warning that says the new one.

    Args:
        what: the component, as the beginning of a sentence.
        target: its class.
        args: name -> value, as JSON or TOML has them.
        given: names of the arguments that hashzoo gives.

    Returns:
        The values in the types that the signature asks for (a tuple where a file has a list).

    Raises:
        ConfigError: an argument is unknown, is missing, or has a value of another type.
        PluginError: the signature gives an argument no type, or one that a file may not set.

    >>> from typing import Literal
    >>> def sign(gradient: Literal["hard-tanh", "identity"] = "hard-tanh"): ...
    >>> check_args("The quantizer 'sign'", sign, {"gradient": "identity"}, [])
    {'gradient': 'identity'}
    >>> check_args("The quantizer 'sign'", sign, {"gradient": "exec"}, [])
    Traceback (most recent call last):
    hashzoo.errors.ConfigError: The quantizer 'sign' cannot take gradient = 'exec' (Input should be 'hard-tanh' or 'identity').
    """
    try:
        parameters = inspect.signature(target, eval_str=bool(args)).parameters.values()
    except Exception as error:  # an annotation may be any expression
        raise PluginError(f"{what} has a signature that cannot be read ({type(error).__name__}: {error}).") from error
    taken = {
        parameter.name: parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and parameter.name not in given
    }
    args = _with_new_names(what, target, args)
    offer = f"it takes {', '.join(taken)}" if taken else "it takes none"
    for name in args:
        if name in given:
            raise ConfigError(f"{what} cannot take {name!r} from a config or recipe: hashzoo gives it; remove it.")
        if name not in taken:
            raise ConfigError(
                f"{what} takes no argument {short(name)} from a config or recipe{did_you_mean(name, taken)}; {offer}."
            )
    for name, parameter in taken.items():
        if parameter.default is parameter.empty and name not in args:
            raise ConfigError(f"{what} needs the argument {name!r}; give it in `args`.")
    return {name: _checked(what, name, taken[name].annotation, value) for name, value in args.items()}


def _checked(what: str, name: str, annotation: Any, value: object) -> Any:
    """Give a value in the type that an argument's annotation asks for."""
    import pydantic

    if not _settable(annotation):
        raise PluginError(
            f"{what} does not say which values its argument {name!r} takes; its author has to give it a type that a "
            "file may set (bool, int, float, Literal, or a tuple or list of them)."
        )
    try:
        return pydantic.TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{what} cannot take {name} = {short(value)} ({error.errors()[0]['msg']}).") from error


def _with_new_names(what: str, target: Callable[..., Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """Read arguments by the names that they had before, as the class attribute `renamed` (old name -> new name) says."""
    renamed = getattr(target, "renamed", {})
    for old in args.keys() & renamed.keys():
        if renamed[old] in args:
            raise ConfigError(f"{what} is given {old!r} and {renamed[old]!r}, which are one argument; remove {old!r}.")
        warnings.warn(
            f"{what} calls its argument {old!r} now {renamed[old]!r}; rename it.", FutureWarning, stacklevel=3
        )
    return {renamed.get(name, name): value for name, value in args.items()}


def _settable(annotation: Any) -> bool:
    """Whether a file may set an argument of this type."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _settable(parts[0])
    if origin in (typing.Union, types.UnionType, tuple, list):
        return all(_settable(part) for part in parts if part is not ...)
    return origin is typing.Literal or annotation in (bool, int, float, None, types.NoneType)
