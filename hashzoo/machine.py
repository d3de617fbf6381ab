"""The machine at hand: its cores and the one pool of threads, its devices, its folders of data, and the memory left."""

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from hashzoo.errors import CodesError, HashzooError

T = TypeVar("T")


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


ALONE = "hashzoo-alone"  # begins the name of the thread of `run_alone`
_pool: ThreadPoolExecutor
_turns: threading.Semaphore
_alone: ThreadPoolExecutor


def _start_pool() -> None:
    global _pool, _turns, _alone
    _pool = ThreadPoolExecutor(cores(), "hashzoo")  # its threads start when they are first needed
    _turns = threading.Semaphore(cores())
    _alone = ThreadPoolExecutor(1, ALONE)


_start_pool()
if hasattr(os, "register_at_fork"):  # threads do not survive a fork: the child has a pool of its own
    os.register_at_fork(after_in_child=_start_pool)


def run_all(tasks: Sequence[Callable[[], object]], threads: int | None = None) -> None:
    """Run tasks that let go of the GIL, on the calling thread and on threads of the pool that are free.

    The process has one pool of as many threads as cores, and at most so many tasks run at a time, whoever calls: 32
    callers on 4 cores run 4 tasks at a time, and what a task takes of memory is taken 4 times. The calling thread works
    too, so it needs no free thread of the pool to finish. A task must not call `run_all`.

    Args:
        tasks: called without arguments, in any order and at the same time.
        threads: at most so many for these tasks; as many as cores if left out.

    Raises:
        Exception: what a task raises; tasks that were not begun by then are left out.

    >>> done = []
    >>> run_all([lambda: done.append("a"), lambda: done.append("b")])
    >>> sorted(done)
    ['a', 'b']
    """
    waiting, turns = deque(tasks), _turns

    def work() -> None:
        while True:
            with turns:
                try:
                    task = waiting.popleft()
                except IndexError:
                    return
                try:
                    task()
                except BaseException:
                    waiting.clear()
                    raise

    helpers = [_pool.submit(work) for _ in range(min(threads or cores(), len(tasks)) - 1)]
    try:
        work()
    finally:
        waiting.clear()
        started = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in started]  # waits for them
    for error in filter(None, errors):
        raise error


def run_alone(task: Callable[[], T]) -> T:
    """Run a task that takes all cores by itself, one at a time in the process, on one thread that is kept for them.

    torch gives each thread that calls it a team of threads of its own; this way there is one team, whoever calls.

    >>> run_alone(lambda: run_alone(lambda: 1 + 1))
    2
    """
    if threading.current_thread().name.startswith(ALONE):  # a network may encode with another
        return task()
    return _alone.submit(task).result()


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
