"""Every method as a whole: its recipe over the shared budget, trained for a few steps, saved and loaded."""

import pytest

from hashzoo.registry import registry
from hashzoo.testing import Subject, parametrize_with_checks
from hashzoo.training import make_recipe

METHODS = [found.name for found in registry().components("method") if found.owner == "hashzoo-baselines"]
# in place of the large backbone, whose features are not what is tested
SMALL = {"backbone": {"name": "tiny", "args": {"pooled": True}}, "preprocess": {"size": [16, 16]}}


@parametrize_with_checks([Subject("method", name, SMALL) for name in METHODS])
def test_conforms(check):
    check()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dataset", ["cifar10", "tiny-imagenet"])
def test_one_budget(name, dataset):
    recipe, other = (make_recipe(n, bits=32, dataset=dataset, protocol="split") for n in (name, "csq"))
    assert recipe.backbone == other.backbone and recipe.preprocess == other.preprocess
    assert recipe.frozen and recipe.optimization.pretrained
    if recipe.loss is not None:
        assert recipe.optimization == other.optimization
    assert (recipe.augment == other.augment) == (name != "cibhash")
