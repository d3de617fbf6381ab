"""Run a protocol on a model, and write what a model's folder says about it."""

from hashzoo.evaluation.evaluate import (
    check_repeat,
    encode_protocol,
    evaluate,
    publish_repeat,
    publish_results,
    row_from_codes,
    stated_otherwise,
)

__all__ = [
    "check_repeat",
    "encode_protocol",
    "evaluate",
    "publish_repeat",
    "publish_results",
    "row_from_codes",
    "stated_otherwise",
]
