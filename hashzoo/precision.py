"""The precision a network runs in: codes of one image made in two of them may differ in some bits."""

import contextlib
import threading
from types import TracebackType
from typing import Any, Literal, cast, get_args

from hashzoo.errors import CodesError

Precision = Literal["float32", "bfloat16"]


def check_precision(precision: object) -> Precision:
    """Return `precision` if a network can run in it.

    Raises:
        CodesError: it is neither "float32" nor "bfloat16".

    >>> check_precision("float16")
    Traceback (most recent call last):
    hashzoo.errors.CodesError: Precision is 'float32' or 'bfloat16', not 'float16'.
    """
    if precision not in get_args(Precision):
        raise CodesError(f"Precision is {' or '.join(map(repr, get_args(Precision)))}, not {precision!r}.")
    return cast(Precision, precision)


class _WithoutTF32(contextlib.AbstractContextManager[None]):
    """See `without_tf32`."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                settings, exact = _settings()
                self._before = [(where, name, getattr(where, name)) for where, name in settings]
                for where, name in settings:
                    setattr(where, name, exact)
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for where, name, value in self._before:
                    if isinstance(value, str):
                        setattr(where, name, "none")  # the backend's own setting holds again, if it was that
                    if getattr(where, name) != value:
                        setattr(where, name, value)


without_tf32 = _WithoutTF32()
"""Within it CUDA multiplies float32 as float32, not as TF32 (10 bits of mantissa), which convolutions do by default.

torch has these settings for the process, not for a thread: the first thread that enters sets them, and the last that leaves
puts back what they were. Work of other threads is exact, too, for as long.
"""


def _settings() -> tuple[list[tuple[Any, str]], Any]:
    """Name the settings of torch that allow TF32, and the value that forbids it."""
    from torch.backends import cuda, cudnn

    if hasattr(cudnn, "conv"):  # since torch 2.9, whose old settings cannot be read where the new ones are set
        return [(place, "fp32_precision") for place in (cuda.matmul, cudnn.conv, cudnn.rnn)], "ieee"
    return [(cuda.matmul, "allow_tf32"), (cudnn, "allow_tf32")], False
