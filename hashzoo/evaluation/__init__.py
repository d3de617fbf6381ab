"""From models and codes to figures; `hashzoo.release.record` writes them into a model's folder."""

from hashzoo.evaluation.measure import find_mismatches, measure
from hashzoo.evaluation.run import encode_protocol, evaluate, figures_from_codes, run_protocol

__all__ = ["encode_protocol", "evaluate", "figures_from_codes", "find_mismatches", "measure", "run_protocol"]
