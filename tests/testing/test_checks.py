"""The kit: good components pass every check, and each check fails on a component with that fault."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from pluggy import PluginValidationError

import hashzoo.testing
from hashzoo import hookimpl
from hashzoo.builtin.quantizers import Sign
from hashzoo.errors import ConfigError, PluginError, UnknownNameError
from hashzoo.registry import discover, registry, using
from hashzoo.testing import Result, Subject, check, parametrize_with_checks
from hashzoo.testing.checks import CHECKS

SOURCE = (Path(__file__).parent / "broken.py").read_text(encoding="utf-8")
KIND_OF = {"Net": "backbone", "Head": "head", "Quantizer": "quantizer", "Loss": "loss"}
FAULTS = {
    (kind, check): name
    for kind in ("backbone", "head", "quantizer", "loss")
    for check in CHECKS[kind]
    for name in [kind.capitalize() + check.removeprefix("check_").title().replace("_", "")]
}
GOOD = {"backbone": "Net", "head": "Head", "quantizer": "Quantizer", "loss": "Loss"}
# recipes of one broken component each, beside three good ones
METHODS = [
    ("check_builds", "head", "HeadBuilds"),
    ("check_shapes", "head", "HeadOfTen"),
    ("check_any_number_of_bits", "head", "HeadOfTwelve"),
    ("check_agrees_with_sign", "quantizer", "QuantizerAgreesWithSign"),
    ("check_finite", "backbone", "BackboneFinite"),
    ("check_gradient_reaches_the_input", "backbone", "BackboneGradientReachesTheInput"),
    ("check_bfloat16", "head", "HeadBfloat16"),
    ("check_evaluation_is_deterministic", "backbone", "BackboneEvaluationIsDeterministic"),
    ("check_rows_are_independent", "backbone", "BackboneRowsAreIndependent"),
    ("check_order_of_the_batch", "head", "HeadOrderOfTheBatch"),
    ("check_batch_of_one", "backbone", "BackboneBatchOfOne"),
    ("check_multi_label", "loss", "LossMultiLabel"),
    ("check_state_dict_round_trip", "backbone", "BackboneStateDictRoundTrip"),
    ("check_learns", "loss", "LossThatStopsTheGradient"),
    ("check_learns", "loss", "LossThatRises"),
    ("check_trains_and_loads", "head", "HeadZooRoundTrip"),
]
RECIPE = """
[backbone]
name = "zoo-faulty/{backbone}"
[head]
name = "zoo-faulty/{head}"
[quantizer]
name = "zoo-faulty/{quantizer}"
[loss]
name = "zoo-faulty/{loss}"
[preprocess]
size = [8, 8]
[optimization]
epochs = 1
lr = 0.01
"""


@pytest.fixture(scope="module", autouse=True)
def zoo_faulty(tmp_path_factory):
    """Install a package of all broken components, with a recipe for each broken method, and put it in force."""
    folder = tmp_path_factory.mktemp("site")
    package = folder / "zoo_faulty"
    package.mkdir()
    (package / "broken.py").write_text(SOURCE)
    hooks = {kind: [] for kind in CHECKS}
    for name, bases in re.findall(r"^class (\w+)\((.*)\)", SOURCE, flags=re.MULTILINE):
        kind = {"Net": "backbone"}.get(bases, bases.lower() if bases in GOOD.values() else KIND_OF[name])
        hooks[kind].append(f"register({name.lower()!r}, 'zoo_faulty.broken:{name}', summary='Broken')")
    for part, name in [(part, name) for _, part, name in METHODS] + [("head", "Head")]:
        parts = {kind: good.lower() for kind, good in GOOD.items()} | {part: name.lower()}
        (package / f"{name}.toml").write_text(RECIPE.format(**parts))
        hooks["method"].append(f"register({name.lower()!r}, 'zoo_faulty:{name}.toml', summary='Broken')")
    source = "from hashzoo import hookimpl\n"
    plural = {"loss": "losses"}
    for kind, lines in hooks.items():
        source += f"@hookimpl\ndef hashzoo_register_{plural.get(kind, kind + 's')}(register):\n    "
        source += "\n    ".join(lines) + "\n"
    (package / "__init__.py").write_text(source)
    info = folder / "zoo_faulty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hashzoo.plugins]\nzoo_faulty = zoo_faulty\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        with using(discover()):
            yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "zoo_faulty"]:
        del sys.modules[name]


SEEN = {  # what the failure says
    "check_builds": "cannot be built|needs the argument",
    "check_attributes": "num_features is 7",
    "check_shapes": "has shape|logits have shape|is no floating-point scalar",
    "check_any_number_of_bits": "with K = (4|48|65) ",
    "check_dtypes": "torch.float64 comes out",
    "check_training_range": "beyond \\[-1, 1\\]",
    "check_agrees_with_sign": "u = -0 becomes -1, not [+]1",
    "check_finite": "values are not finite",
    "check_gradient_reaches_the_input": "no gradient reaches some or all rows",
    "check_gradient_reaches_the_parameters": "reaches the parameter (unused|classifier)",
    "check_bfloat16": "BFloat16|self and source expected to have the same dtype",
    "check_evaluation_is_deterministic": "gives two outputs",
    "check_rows_are_independent": "depends on its batch",
    "check_order_of_the_batch": "the order of the batch changes",
    "check_batch_of_one": "a batch of one",
    "check_one_class": "a batch of one class",
    "check_steps_after_an_epoch": r"what end_epoch\(\) found is not all in its state_dict",
    "check_closed_form": "a bit is the same for all",
    "check_multi_label": "neither accepted nor refused",
    "check_config_round_trip": "cannot be written as JSON|built from its options as JSON",
    "check_state_dict_round_trip": "another one that loads its state_dict",
    "check_zoo_round_trip": "share memory",
    "check_learns": "no gradient of its loss reaches the parameter model.backbone|after 40 steps",
    "check_trains_and_loads": "share memory",
}


@pytest.mark.parametrize(("kind", "name"), [*GOOD.items(), ("method", "Head")])
def test_a_good_component_passes(kind, name):
    subject = Subject(kind, f"zoo-faulty/{name.lower()}")
    results = subject.results()
    assert [str(result) for result in results if not result.ok] == []
    assert [result.check for result in results] == [*CHECKS[kind], "check_listing"]


@pytest.mark.parametrize(("kind", "check"), FAULTS)
def test_a_fault_is_seen(kind, check):
    subject = Subject(kind, f"zoo-faulty/{FAULTS[kind, check].lower()}")
    with pytest.raises(Exception, match=SEEN[check]):
        subject.run(check)


@pytest.mark.parametrize(("check", "part", "name"), METHODS)
def test_a_fault_of_a_method_is_seen(check, part, name):
    with pytest.raises(Exception, match=SEEN[check]):
        Subject("method", f"zoo-faulty/{name.lower()}").run(check)


def test_a_recipe_that_is_not_written_as_it_is():
    head = {"name": "zoo-faulty/headconfigroundtrip", "args": {"scales": (1, 2)}}  # TOML has lists
    subject = Subject("method", "zoo-faulty/head", {"head": head})
    with pytest.raises(AssertionError, match="its recipe, written and read again, is another one"):
        subject.run("check_recipe_round_trip")


def test_every_check_has_a_fault():
    assert {check for check, _, _ in METHODS} | {"check_recipe_round_trip"} == set(CHECKS["method"])


class Untyped(Sign):
    """No type says what a recipe may give as `beta`."""

    def __init__(self, beta=None):
        super().__init__()


class Unbounded(Sign):
    """A text could name a file."""

    def __init__(self, table: str = "small"):
        super().__init__()


@pytest.mark.parametrize("fault", [Untyped, Unbounded])
def test_an_option_that_no_file_may_set(fault):
    message = r"fails 1 of 16 checks:\n  check_config_round_trip: .*does not say which values"
    with pytest.raises(AssertionError, match=message):
        check("quantizer", fault)


def test_a_class_as_target_and_an_import_of_torch_are_no_fault(hashzoo_registry):
    module = types.ModuleType("mine")
    module.hashzoo_register_quantizers = hookimpl(lambda register: register("mine", Sign, summary="A sign"))
    hashzoo_registry.add(module, "hashzoo-mine")
    assert all(result.ok for result in Subject("quantizer", "hashzoo-mine/mine").results())


@pytest.mark.parametrize(
    ("kind", "target", "summary", "problem"),
    [
        ("head", "zoo_faulty.broken:Nothing", "A head", "cannot be imported from 'zoo_faulty.broken:Nothing'"),
        ("method", "zoo_faulty:nothing.toml", "A method", "cannot be imported from 'zoo_faulty:nothing.toml'"),
        ("method", "a = = 1", "A method", "is no TOML"),
        ("quantizer", Sign, "Two\nlines", "its summary is not one line"),
        ("quantizer", Sign, " ", "its summary is not one line"),
    ],
)
def test_a_listing_with_a_fault(hashzoo_registry, kind, target, summary, problem):
    hashzoo_registry.register(kind, "mine", target, summary=summary)
    with pytest.raises((AssertionError, PluginError), match=problem):
        Subject(kind, "mine").run("check_listing")


@pytest.mark.parametrize("kind", ["backbone", "head", "loss", "quantizer", "method"])
def test_names_of_before_still_work(kind):
    with pytest.warns(DeprecationWarning, match=rf"^check_{kind}\(...\) is now check\('{kind}', ...\)$"):
        old = getattr(hashzoo.testing, f"check_{kind}")
    with pytest.raises(UnknownNameError, match=f"No {kind} is named 'nobody'"):
        old("nobody")
    assert not hasattr(hashzoo.testing, "check_hat")


# The kit's own ways


class Zero(Sign):
    """The sign of 0 is 0."""

    def forward(self, u):
        return super().forward(u) if self.training else u.sign()


FLAW = {"check_agrees_with_sign": "an example"}


@parametrize_with_checks([Subject("quantizer", Sign, {"gradient": "identity"}), Subject("quantizer", Zero, {}, FLAW)])
def test_conforms(check):
    check()


def test_the_decorators_marks():
    names, parameters = parametrize_with_checks([Subject("quantizer", Zero, {}, FLAW)]).args
    assert names == "check"
    assert [parameter.id for parameter in parameters] == [f"quantizer Zero-{name}" for name in CHECKS["quantizer"]]
    marks = {parameter.id: [(mark.name, mark.kwargs) for mark in parameter.marks] for parameter in parameters}
    assert marks.pop("quantizer Zero-check_agrees_with_sign") == [("xfail", {"reason": "an example", "strict": True})]
    assert set(map(tuple, marks.values())) == {()}


def test_expected_failures():
    check("quantizer", Zero, expected_failures=FLAW)
    with pytest.raises(
        AssertionError, match=r"(?s)^quantizer Zero fails 1 of 16 checks:\n  check_agrees_with_sign: in"
    ):
        check("quantizer", Zero)
    with pytest.raises(AssertionError, match="check_agrees_with_sign: passes; take it out of the expected failures"):
        check("quantizer", Sign, expected_failures=FLAW)
    assert str(Result("check_shapes", "bad", "known")) == "check_shapes: fails as expected (known)"


def test_what_cannot_be_built_is_told_once():
    results = Subject("loss", "zoo-faulty/lossbuilds").results()
    assert [result.check for result in results] == ["check_builds"]
    assert "needs the argument 'classes'" in results[0].problem
    with pytest.raises(AssertionError, match="loss zoo-faulty/lossbuilds fails"):
        check("loss", "zoo-faulty/lossbuilds")


def test_what_is_refused():
    with pytest.raises(ConfigError, match=r"The kind of a subject is one of backbone, .*, not 'hed'"):
        Subject("hed", "linear")
    with pytest.raises(UnknownNameError, match=r"No head is named 'linaer' \(did you mean 'linear'"):
        Subject("head", "linaer")
    with pytest.raises(UnknownNameError, match=r"No check is named 'check_shape' \(did you mean 'check_shapes'"):
        Subject("head", "linear", {}, {"check_shape": "why"})
    with pytest.raises(ConfigError, match="A method is checked by its registered name"):
        check("method", Sign)


def test_checks_leave_the_random_numbers_alone():
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    check("quantizer", "sign")
    assert torch.equal(torch.rand(1), wanted)


# The fixture


def test_the_isolated_registry(hashzoo_registry):
    assert registry() is hashzoo_registry
    assert [plugin.distribution for plugin in hashzoo_registry.plugins] == ["hashzoo"]
    with pytest.raises(UnknownNameError):
        registry().get("loss", "dsbh")
    module = types.ModuleType("mine")
    module.hashzoo_register_quantizers = hookimpl(lambda register: register("zero", Zero, summary="Sign of 0 is 0"))
    hashzoo_registry.add(module, "hashzoo-mine")
    assert isinstance(registry().build("quantizer", "hashzoo-mine/zero"), Zero)
    module.hashzoo_register_hats = hookimpl(lambda register: None)
    with pytest.raises(PluginValidationError, match="unknown hook 'hashzoo_register_hats'"):
        hashzoo_registry.add(module, "hashzoo-mine")


def test_it_is_gone_afterwards():
    assert registry().get("loss", "dsbh")


def test_pytest_offers_it_without_loading_torch():
    code = "import sys, hashzoo.testing.pytest_plugin; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Memory(torch.nn.Module):
    """A loss that asks for all it may: two views, the training list, its rows, a step after each epoch."""

    views = 2

    def __init__(self, bits, num_classes, multi_label=False):
        super().__init__()
        self.bits = bits
        self.seen = 0

    def start(self, targets):
        self.register_buffer("memory", torch.zeros(len(targets), self.bits))
        self.started_with = targets

    def forward(self, output, targets):
        assert output.u.shape[0] == 2 * len(set(output.index.tolist()))
        assert torch.equal(self.started_with[output.index], targets)
        first, second = output.u.chunk(2)
        assert torch.equal(*output.index.chunk(2))
        self.seen += 1
        return {"apart": (first - second).square().mean(), "moved": (output.u - self.memory[output.index]).abs().mean()}

    def end_epoch(self):
        assert not torch.is_grad_enabled()
        self.memory.add_(1.0)


def test_a_loss_may_ask_for_views_and_a_memory():
    check("loss", Memory)
    blind = type("Blind", (Memory,), {"start": lambda self, targets: None})
    with pytest.raises(AssertionError, match="AttributeError"):
        check("loss", blind)
