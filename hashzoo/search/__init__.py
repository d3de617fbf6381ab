"""Exact Hamming search over packed codes, on the CPU and on a GPU: rows of codes only, no ids, no paths, no files."""

from hashzoo.search.devices import hold
from hashzoo.search.held import HeldCodes

__all__ = ["HeldCodes", "hold"]
