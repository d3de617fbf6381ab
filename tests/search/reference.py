"""What a search has to find, the slow way, and codes to search."""

import numpy as np

from hashzoo.codes import pack


def make(kind, rows, bits, seed):
    """Make packed codes uint8 (rows, ceil(bits/8))."""
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        return pack(rng.random((rows, bits)) < 0.5)
    centres = np.random.default_rng(0).random((1 if kind == "equal" else 5, bits)) < 0.5
    flips = rng.random((rows, bits)) < (0 if kind == "equal" else 0.05)
    return pack(centres[rng.integers(len(centres), size=rows)] ^ flips)


def distances_of(queries, base):
    return (np.unpackbits(queries, axis=1)[:, None] != np.unpackbits(base, axis=1)[None]).sum(axis=2)


def sorted_all(queries, base, keep=None):
    """Sort all distances, stably: the definition."""
    kept = np.arange(len(base)) if keep is None else np.flatnonzero(keep)
    distances = distances_of(queries, base)[:, kept]
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(distances, order, axis=1), kept[order]
