"""The machine at hand: its devices, its folders of data, and the memory left."""

import os
import re
from pathlib import Path

from hashzoo.errors import CodesError, HashzooError


def choose_device(device: str | None) -> str:
    """Return `device` if torch can use it; if it is None, "cuda" where there is one, else "cpu".

    Raises:
        HashzooError: it is neither "cpu" nor "cuda" nor "cuda:N", or not there.

    >>> choose_device("tpu")
    Traceback (most recent call last):
    hashzoo.errors.HashzooError: Device 'tpu' cannot be used (it is neither 'cpu' nor 'cuda'); use device='cpu'.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    reason = None
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        reason = "it is neither 'cpu' nor 'cuda'"
    elif device != "cpu":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
    if reason:
        raise HashzooError(f"Device {device!r} cannot be used ({reason}); use device='cpu'.")
    return device


def local_data(name: str) -> list[Path]:
    """Paths of `name` in the folders of local data that `$HASHZOO_DATA` lists, as PATH does; they need not exist.

    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, {"HASHZOO_DATA": os.pathsep.join(["/data", "/more"])}):
    ...     [str(path) for path in local_data("cifar10")]
    ['/data/cifar10', '/more/cifar10']
    """
    return [Path(root, name) for root in os.environ.get("HASHZOO_DATA", "").split(os.pathsep) if root]


def need_memory(size: int, what: str, way_out: str) -> None:
    """Refuse work before it starts that this machine has no memory for.

    Args:
        size: bytes that it takes.
        what: the thing that takes them, as the sentence begins.
        way_out: what to do instead.

    Raises:
        CodesError: less than `size` is available.

    >>> need_memory(10**18, "An index of 10**17 codes", "index fewer")
    Traceback (most recent call last):
    hashzoo.errors.CodesError: An index of 10**17 codes takes 931322574.6 GiB of memory, but ... GiB are left; index fewer.
    """
    if size < 1 << 26:  # not worth asking the system
        return
    import psutil

    left = psutil.virtual_memory().available
    if size > left:
        raise CodesError(
            f"{what} takes {size / 2**30:.1f} GiB of memory, but {left / 2**30:.1f} GiB are left; {way_out}."
        )
