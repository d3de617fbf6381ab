"""Recipes, and the runs that train a model by one."""

# ruff: noqa: E402 - what is missing is said before an import fails
from hashzoo.errors import require_extra

require_extra("train", "accelerate", "tomli_w")

from hashzoo.training.recipe import Recipe, make_recipe, read_recipe
from hashzoo.training.run import run_recipe, train

__all__ = ["Recipe", "make_recipe", "read_recipe", "run_recipe", "train"]
