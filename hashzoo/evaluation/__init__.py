"""Run a protocol on a model, and write what a model's folder says about it."""

from hashzoo.evaluation.evaluate import (
    check_repeat,
    encode_protocol,
    evaluate,
    row_from_codes,
    stated_otherwise,
    write_repeat,
    write_results,
)

__all__ = [
    "check_repeat",
    "encode_protocol",
    "evaluate",
    "row_from_codes",
    "stated_otherwise",
    "write_repeat",
    "write_results",
]
