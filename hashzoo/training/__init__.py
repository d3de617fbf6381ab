"""Recipes, and the loop that runs them."""

from hashzoo.training.loop import train
from hashzoo.training.recipe import Recipe, make_recipe, read_recipe

__all__ = ["Recipe", "make_recipe", "read_recipe", "train"]
