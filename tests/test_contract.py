"""One random batch through four components, before any data: each fault is told with package, file and line."""

import re

import pytest
import torch

from hashzoo.config import ComponentRef, PreprocessConfig
from hashzoo.contract import check_contract
from hashzoo.errors import HashzooError, PluginError
from hashzoo.registry import discover, registry, using

CODE = """
import torch
from hashzoo import ConfigError

class Net(torch.nn.Module):
    num_features, feature_shape, preprocess = 8, (8,), {"size": (16, 16)}
    def __init__(self, pretrained=False):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 8, 8, stride=8)
    def forward(self, images):
        return self.layer(images)MEAN

class Head(torch.nn.Module):
    def __init__(self, feature_shape, bits, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(feature_shape[0], WIDTH)
    def forward(self, features):
        return self.layer(features)LOGITS

class Quantizer(torch.nn.Module):
    def forward(self, u):
        return u.tanh()SHAPE if self.training else EVAL

class Loss(torch.nn.Module):
    def __init__(self, bits, num_classes, multi_label=False):
        super().__init__()
        REFUSE
    def forward(self, output, targets):
        SAY
        return TERMS
"""
GOOD = {
    "MEAN": ".mean((2, 3))", "WIDTH": "bits", "LOGITS": "", "SHAPE": "", "EVAL": "torch.where(u >= 0, 1.0, -1.0)",
    "REFUSE": "", "SAY": "", "TERMS": "{'a': output.codes.mean()}",
}  # fmt: skip
FAULTS = {  # what is wrong, what is said, and the line to fix
    "backbone: a map": ({"MEAN": ""}, r"backbone 'part' .* gives a tensor of shape \(4, 8, 2, 2\) and float32 for 4 ", 10),
    "backbone: a list": ({"MEAN": ".tolist()"}, "backbone 'part' .* gives a list", 10),
    "head: 64 bits": ({"WIDTH": "64"}, r"head 'part' .* gives a tensor of shape \(4, 64\) .* shape \(4, 12\): 12 bits", 17),
    "head: its logits": ({"LOGITS": ", features"}, r"head 'part' .* logits have to be floats of shape \(4, 10\)", 17),
    "quantizer: sign of 0": ({"EVAL": "u * 2"}, r"quantizer 'part' .* gives other codes than \+1 where u >= 0", 21),
    "quantizer: shape": ({"SHAPE": "[:2]"}, r"quantizer 'part' .* gives a tensor of shape \(2, 12\)", 21),
    "loss: a tensor": ({"TERMS": "output.u.mean()"}, r"loss 'part' .* gives a tensor of shape \(\) .* dict of named terms", 28),
    "loss: nothing": ({"TERMS": "{}"}, "loss 'part' .* gives a dict", 28),
    "loss: a float": ({"TERMS": "{'a': 1.0}"}, "loss 'part' .* gives a float as the term 'a'", 28),
    "loss: a vector": ({"TERMS": "{'a': output.u}"}, r"loss 'part' .* gives a tensor of shape \(4, 12\) .* the term 'a'", 28),
    "loss: raises": ({"SAY": "1 / 0"}, r"loss 'part' .* fails on a batch of 4 random items \(ZeroDivisionError: ", 29),
}  # fmt: skip
HOOKS = {"backbones": "Net", "heads": "Head", "quantizers": "Quantizer", "losses": "Loss"}


@pytest.fixture
def run(site):
    """Install the four components with a fault; run the check."""

    def run(loss=True, bits=12, **changes):
        code = CODE
        for word, text in (GOOD | changes).items():
            code = code.replace(word, text)
        hooks = "".join(
            f"@hookimpl\ndef hashzoo_register_{hook}(register):\n    register('part', {name}, summary='A part')\n"
            for hook, name in HOOKS.items()
        )
        site.add(
            "zoo-parts", {"zoo_parts.py": f"{code}\nfrom hashzoo import hookimpl\n{hooks}"}, {"parts": "zoo_parts"}
        )
        ref = ComponentRef(name="part", package="zoo-parts")
        with using(discover()):
            assert [plugin.error for plugin in registry().plugins if plugin.name == "parts"] == [None]
            check_contract(ref, ref, ref, ref if loss else None, bits=bits, preprocess=PreprocessConfig(size=(16, 16)))

    return run


@pytest.mark.parametrize("bits", [4, 12, 48])
def test_good_components_pass_and_leave_the_random_numbers_alone(run, bits):
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    run(bits=bits)
    assert torch.equal(torch.rand(1), wanted)


def test_a_method_in_closed_form_has_no_loss(run):
    run(loss=False, TERMS="nonsense")


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_told_with_package_file_and_line(run, site, case):
    changes, said, line = FAULTS[case]
    with pytest.raises(PluginError) as error:
        run(**changes)
    assert re.match(f"The {said}", str(error.value)), error.value
    assert "of zoo-parts " in str(error.value)
    assert str(error.value).endswith(f"; fix {site.folder}/zoo_parts.py:{line}.")


def test_a_loss_of_many_labels_alone_gets_many(run):
    refuse = "if not multi_label: raise ConfigError('many labels only')"
    run(REFUSE=refuse, SAY="assert targets.shape == (4, 10) and targets.is_floating_point()")


def test_a_loss_that_refuses_everything_says_why(run):
    with pytest.raises(HashzooError, match=r"^not this$"):
        run(REFUSE="raise ConfigError('nor many labels' if multi_label else 'not this')")


@pytest.mark.parametrize("name", ["dpsh", "adsh", "dsdh", "cibhash", "csq", "class-label", "bihalf", "itq"])
def test_methods_of_ours_pass(name):
    from hashzoo.training import make_recipe

    changes = {"backbone": {"name": "timm/test_resnet", "args": {"pool": True}}, "preprocess": {"size": [64, 64]}}
    recipe = make_recipe(name, bits=12, dataset="cifar10", protocol="split", changes=changes)
    check_contract(recipe.backbone, recipe.head, recipe.quantizer, recipe.loss, bits=12, preprocess=recipe.preprocess)
