"""Recipes, and the runs that train a model by one."""

from hashzoo.training.recipe import Recipe, make_recipe, read_recipe
from hashzoo.training.run import run_recipe, train

__all__ = ["Recipe", "make_recipe", "read_recipe", "run_recipe", "train"]
