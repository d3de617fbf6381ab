import dataclasses
import json
import re
import sys

import pytest

import hashzoo
from hashzoo import hookspecs
from hashzoo.config import ComponentRef
from hashzoo.errors import ConfigError, PluginError, UnknownNameError
from hashzoo.network import check_component
from hashzoo.registry import HOOKS, Component, Plugin, Registry, discover, registry, using

HEADS = "from hashzoo import hookimpl\n@hookimpl\ndef hashzoo_register_heads(register):\n    "
GOOD = HEADS + "register('good', 'zoo_good.head:Head', summary='A good head')\n"
HEAD = "class Head:\n    def __init__(self, bits=0, model=None):\n        self.bits, self.model = bits, model\n"


@pytest.fixture
def good(site):
    """Install a plugin that works."""
    site.add("zoo-good", {"zoo_good/__init__.py": GOOD, "zoo_good/head.py": HEAD}, {"good": "zoo_good"}, version="2.5")
    return site


def add_head(site, distribution, register, entry_point=None):
    """Install a package that registers one head."""
    module = distribution.replace("-", "_")
    files = {f"{module}/__init__.py": HEADS + register + "\n", f"{module}/head.py": HEAD}
    site.add(distribution, files, {entry_point or module: module})


def plugin_of(registry, distribution):
    return next(plugin for plugin in registry.plugins if plugin.distribution == distribution)


def test_a_good_plugin(good):
    found = discover()
    plugin = plugin_of(found, "zoo-good")
    component = Component("head", "good", "zoo-good", "zoo_good.head:Head", "A good head")
    assert plugin == Plugin("good", "zoo-good", "2.5", (component,), None)
    assert found.get("head", "good") == found.get("head", "zoo-good/good") == (component, {})
    assert component in found.components("head")
    assert component not in found.components("loss")
    assert found.components("head")[0].owner == "hashzoo"  # built-ins come first
    assert "zoo_good.head" not in sys.modules  # listing imported no target
    built = found.build("head", "good", bits=48)
    assert type(built).__module__ == "zoo_good.head"
    assert built.bits == 48
    assert found.clashes() == {}
    for value in (plugin, component):  # shared by all who ask
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.name = "bad"


def test_every_kind_has_its_hook(site):
    hooks = "".join(
        f"@hookimpl\ndef {hook}(register):\n    register('a-{kind}', 'zoo_all:x', summary='')\n"
        for kind, hook in HOOKS.items()
    )
    site.add("zoo-all", {"zoo_all.py": "from hashzoo import hookimpl\n" + hooks}, {"all": "zoo_all"})
    found = discover()
    assert plugin_of(found, "zoo-all").error is None
    assert len(HOOKS) == 5
    for kind in HOOKS:
        assert found.get(kind, f"a-{kind}")[0].kind == kind
        with pytest.raises(PluginError, match="AttributeError"):  # an attribute of the module, not a file beside it
            found.get(kind, f"a-{kind}")[0].load()


def test_a_method_is_a_file_of_its_package(site):
    source = "from hashzoo import hookimpl\n@hookimpl\ndef hashzoo_register_methods(register):\n"
    source += "    register('mine', 'zoo_method:mine.toml', summary='')\n"
    source += "    register('gone', 'zoo_method:gone.toml', summary='')\n"
    site.add("zoo-method", {"zoo_method/__init__.py": source, "zoo_method/mine.toml": "a = 'ö'\n"}, {"m": "zoo_method"})
    found = discover()
    assert found.get("method", "mine")[0].recipe_layers() == [{"a": "ö"}]
    message = r"^The method 'gone' of package zoo-method cannot be imported from 'zoo_method:gone.toml' "
    with pytest.raises(PluginError, match=message):
        found.get("method", "gone")[0].recipe_layers()


def test_a_method_may_build_on_a_file_beside_it_or_be_a_text_or_a_dict(site):
    source = "from hashzoo import hookimpl\n@hookimpl\ndef hashzoo_register_methods(register):\n"
    source += "    register('file', 'zoo_method:mine.toml', summary='')\n"
    source += "    register('text', 'a = 1\\n[b]\\nc = 2', summary='')\n"
    source += "    register('dict', {'a': 1, 'b': {'c': 2}}, summary='')\n"
    files = {
        "zoo_method/__init__.py": source,
        "zoo_method/mine.toml": "base = 'base.toml'\na = 2",
        "zoo_method/base.toml": "a = 1",
    }
    site.add("zoo-method", files, {"m": "zoo_method"})
    found = discover()
    assert plugin_of(found, "zoo-method").error is None
    assert found.get("method", "file")[0].recipe_layers() == [{"a": 1}, {"a": 2}]
    assert found.get("method", "text")[0].recipe_layers() == [{"a": 1, "b": {"c": 2}}]
    (layer,) = found.get("method", "dict")[0].recipe_layers()
    assert layer == {"a": 1, "b": {"c": 2}}
    layer["b"]["c"] = 3  # a copy of one's own
    assert found.get("method", "dict")[0].recipe_layers() == [{"a": 1, "b": {"c": 2}}]


@pytest.mark.parametrize("base", ["", "base = 'base.toml'"])
def test_a_fault_of_a_recipe_is_told_with_package_file_and_line(site, base):
    source = "from hashzoo import hookimpl\n@hookimpl\ndef hashzoo_register_methods(register):\n"
    source += "    register('mine', 'zoo_method:mine.toml', summary='')\n"
    faulty = "\n\na = = 1\n"
    files = {"zoo_method/__init__.py": source, "zoo_method/mine.toml": base or faulty, "zoo_method/base.toml": faulty}
    site.add("zoo-method", files, {"m": "zoo_method"})
    with pytest.raises(PluginError) as error:
        discover().get("method", "mine")[0].recipe_layers()
    file = "base" if base else "mine"
    assert str(error.value).startswith(
        "The recipe of method 'mine' of package zoo-method is no TOML (Invalid value (at line 3, "
    )
    assert str(error.value).endswith(f"; fix {site.folder}/zoo_method/{file}.toml:3.")


BROKEN = {
    "missing import": ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
    "error at import": ("raise RuntimeError('no GPU here')", "RuntimeError: no GPU here"),
    "exit at import": ("raise SystemExit(3)", "SystemExit: 3"),
    "syntax": ("def hashzoo_register_heads(register)\n", "SyntaxError: "),
    "unknown hook": (HEADS.replace("heads", "hats") + "pass", "PluginValidationError: unknown hook .*_hats'"),
    "unknown argument": (HEADS.replace("(register)", "(register, zoo)") + "pass", "PluginValidationError: [^!]*'zoo'"),
    "error in the hook": (HEADS + "1 / 0", "ZeroDivisionError: "),
    "exit in the hook": (HEADS + "raise SystemExit('bye')", "SystemExit: bye"),
    "twice": (HEADS + "for _ in 'ab': register('evil', 'a:B', summary='')", "head 'evil' is registered twice"),
    "capitals": (HEADS + "register('My-Head', 'a:B', summary='')", "'My-Head' is no valid name for a head"),
    "space": (HEADS + "register('my head', 'a:B', summary='')", "'my head' is no valid name for a head"),
    "slash": (HEADS + "register('a/b', 'a:B', summary='')", "'a/b' is no valid name for a head"),
    "star alone": (HEADS + "register('*', 'a:B', summary='')", r"'\*' is no valid name for a head"),
    "empty": (HEADS + "register('', 'a:B', summary='')", "'' is no valid name for a head"),
    "no text": (HEADS + "register(5, 'a:B', summary='')", "5 is no valid name for a head"),
    "no colon": (
        HEADS + "register('a', 'a.B', summary='')",
        "The target of head 'a' must be a class or read '.*:Name', not 'a.B'"),
    "another kind": (HEADS + "register('a', 'a:B', summary='', kind='loss')", "TypeError: .*'kind'"),
    "no method": (
        HEADS.replace("heads", "methods") + "register('a', object, summary='')",
        "The target of method 'a' must be a dict, be the text of a recipe, or read 'package:recipe.toml', not <class 'object'>"),
    "a table as head": (HEADS + "register('a', {}, summary='')", r"The target of head 'a' must be a class or read .*, not \{\}"),
    "two colons": (HEADS + "register('a', 'a:B:c', summary='')", "The target of head 'a' must be a class or read .*'a:B:c'"),
    "no module": (HEADS + "register('a', ':B', summary='')", "The target of head 'a' must be a class or read .*':B'"),
    "no attribute": (HEADS + "register('a', 'a:', summary='')", "The target of head 'a' must be a class or read .*'a:'"),
    "relative": (HEADS + "register('a', '.a:B', summary='')", r"The target of head 'a' must be a class or read .*'\.a:B'"),
    "no class": (HEADS + "register('a', 7, summary='')", "The target of head 'a' must be a class or read .*7"),
    "no summary": (HEADS + "register('a', 'a:B')", "TypeError: .*'summary'"),
    "no marker": (GOOD.replace("@hookimpl\n", ""), "hashzoo_register_heads is not marked as a hook; put @hookimpl"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_harms_nobody(good, monkeypatch, case):
    source, error = BROKEN[case]
    good.add("zoo-broken", {"zoo_broken.py": source}, {"broken": "zoo_broken"})
    found = discover()
    plugin = plugin_of(found, "zoo-broken")
    assert re.match(f"(PluginError: )?{error}", plugin.error), plugin.error
    assert (plugin.name, plugin.version, plugin.components) == ("broken", "1.0", ())
    assert re.fullmatch(r".*/zoo_broken\.py:[1-4]", plugin.where)
    assert found.build("head", "good").bits == 0
    assert found.get("head", "linear")[0].owner == "hashzoo"
    with pytest.raises(UnknownNameError, match=r"zoo-broken \(broken: "):
        found.get("head", "of-the-broken-one")

    monkeypatch.setenv("HASHZOO_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"^Plugin 'broken' of zoo-broken is broken: "):
        discover()
    monkeypatch.setenv("HASHZOO_PLUGINS", "good")
    assert [plugin.name for plugin in discover().plugins] == ["builtin", "good"]


PACKAGE = {
    "entry point": ({"zoo_a/__init__.py": ""}, "entry point a = zoo_a:plugin"),
    "its own module": (
        {"zoo_a/__init__.py": "from zoo_a.parts import plugin", "zoo_a/parts.py": "\nimport nowhere"},
        "zoo_a/parts.py:2",
    ),
    "what it calls": ({"zoo_a/__init__.py": "import json\n\nplugin = json.loads('{')"}, "zoo_a/__init__.py:3"),
    "a beginning like ours": (
        {"zoo_a/__init__.py": "from zoo_ab import x", "zoo_ab.py": "x = 1\n1 / 0"}, "zoo_a/__init__.py:1"),
    "syntax": ({"zoo_a/__init__.py": "from zoo_a import parts", "zoo_a/parts.py": "\n\ndef"}, "zoo_a/parts.py:3"),
    "unknown hook": (
        {"zoo_a/__init__.py": "class plugin:\n    pass\n\n\n" + HEADS.replace("heads", "hats") + "pass\n"
         "plugin.hashzoo_register_hats = staticmethod(hashzoo_register_hats)"}, "zoo_a/__init__.py:6"),
    "refused registration": (
        {"zoo_a/__init__.py": "from zoo_a import parts as plugin", "zoo_a/parts.py": HEADS + "register(5, 'a:B', summary='')"},
        "zoo_a/parts.py:4"),
}  # fmt: skip


@pytest.mark.parametrize("case", PACKAGE)
def test_the_line_to_fix(site, case):
    files, where = PACKAGE[case]
    site.add("zoo-a", files, {"a": "zoo_a:plugin"})
    assert plugin_of(discover(), "zoo-a").where.removeprefix(f"{site.folder}/") == where


@pytest.mark.parametrize(
    ("line", "api"), [("", 1), ("hashzoo_api = 1", 1), ("hashzoo_api = 2", 2), ("hashzoo_api = '1'", "1")]
)
def test_the_version_of_the_hooks(site, line, api):
    site.add("zoo-a", {"zoo_a.py": f"{line}\n{HEADS}register('a', 'a:B', summary='')"}, {"a": "zoo_a"})
    plugin = plugin_of(discover(), "zoo-a")
    if api == 1:
        assert (plugin.api, plugin.error) == (1, None)
    else:
        message = f"PluginError: it is written for version {api!r} of the hooks, this hashzoo has 1; update both with"
        assert plugin.error.startswith(message)


def test_an_old_version_of_the_hooks_is_served_with_a_warning(good, monkeypatch):
    monkeypatch.setattr(hookspecs, "API_VERSION", 3)
    monkeypatch.setattr("hashzoo.builtin.hashzoo_api", 3)
    monkeypatch.setattr(hookspecs, "OLD_API_VERSIONS", {2: "hashzoo 0.9"})
    text = f"hashzoo_api = 2\n{HEADS}register('a', 'a:B', summary='')"
    good.add("zoo-old", {"zoo_old.py": text}, {"old": "zoo_old"})
    with pytest.warns(
        FutureWarning, match="^The plugin zoo-old: it is written for version 2 of the hooks, which hashzoo "
    ):
        found = discover()
    plugin = plugin_of(found, "zoo-old")
    assert (plugin.error, plugin.api, len(plugin.components)) == (None, 2, 1)
    assert "which hashzoo serves until hashzoo 0.9; update it with `" in plugin.notice
    assert plugin_of(found, "zoo-good").error.startswith(
        "PluginError: it is written for version 1 of the hooks, this hashzoo has 3"
    )


def test_a_notebook_registers(good):
    with using(discover()) as found:
        first, second = type("Head", (), {}), type("Head", (), {})
        hashzoo.register("head", "mine", first, summary="Mine")
        hashzoo.register("loss", "mine", first)
        hashzoo.register("head", "mine", second, summary="Mine again")  # a cell is run twice
        assert found.get("head", "mine")[0].load() is second
        assert found.get("loss", "mine")[0].load() is first
        assert found.get("head", "hashzoo.register/mine")[0].summary == "Mine again"
        assert found.clashes() == {}
        hashzoo.register("method", "mine", {"a": 1})
        assert found.get("method", "mine")[0].recipe_layers() == [{"a": 1}]
        with pytest.raises(PluginError, match=r"^zoo-good registers a head named 'good'; choose another name"):
            hashzoo.register("head", "good", first)
        with pytest.raises(UnknownNameError, match=r"^No kind of component is named 'hed' \(did you mean 'head'\?\)"):
            hashzoo.register("hed", "mine", first)
        with pytest.raises(PluginError, match="'My Head' is no valid name"):
            hashzoo.register("head", "My Head", first)
    with pytest.raises(UnknownNameError):
        discover().get("head", "mine")


def test_what_a_session_registered_is_not_looked_for_in_a_package():
    ref = ComponentRef(name="mine", package="hashzoo.register")
    with pytest.raises(PluginError, match="the session that trained it called it; register it again in this one"):
        check_component("head", ref)


def test_a_package_of_before_does_not_register_what_the_core_has_now(site):
    (site.folder / "x").mkdir()
    add_head(site, "hashzoo-baselines", "register('itq', 'zoo_a.head:Head', summary='')")
    found = Registry([p for p in discover().plugins if p.distribution in ("hashzoo", "hashzoo-baselines")])
    assert ("head", "itq") not in found.clashes()
    assert found.get("head", "hashzoo-baselines/itq")[0].owner == "hashzoo"


def test_an_argument_s_old_name_is_read_with_a_warning():
    new = check_component("loss", ComponentRef(name="dhn", args={"quantization_weight": 0.5}))
    with pytest.warns(FutureWarning, match="'dhn' of hashzoo-baselines calls its argument 'quantisation_weight' now "):
        assert check_component("loss", ComponentRef(name="dhn", args={"quantisation_weight": 0.5})) == new
    with pytest.raises(ConfigError, match="which are one argument; remove 'quantisation_weight'"):
        check_component("loss", ComponentRef(name="dhn", args={"quantisation_weight": 1.0, "quantization_weight": 0.5}))


def test_a_registry_of_ones_own(good):
    installed = registry()
    with using(Registry([])) as empty:
        assert registry() is empty
        with pytest.raises(ZeroDivisionError), using(discover()):
            assert registry().get("head", "good") and 1 / 0
        assert registry() is empty
    assert registry() is installed


def test_an_entry_point_to_nowhere(good):
    good.add("zoo-lost", {}, {"lost": "zoo_lost_module"})
    found = discover()
    assert plugin_of(found, "zoo-lost").error == "ModuleNotFoundError: No module named 'zoo_lost_module'"
    assert found.get("head", "good")


def test_ctrl_c_is_not_swallowed(site):
    site.add("zoo-slow", {"zoo_slow.py": "raise KeyboardInterrupt"}, {"slow": "zoo_slow"})
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_two_packages_with_one_name(site, monkeypatch):
    for letter in "ab":
        add_head(site, f"zoo-{letter}", f"register('same', 'zoo_{letter}.head:Head', summary='')")
    found = discover()
    assert found.clashes() == {("head", "same"): ["zoo-a", "zoo-b"]}
    message = "Both zoo-a and zoo-b register a head named 'same'; write 'zoo-a/same' or 'zoo-b/same'."
    with pytest.raises(PluginError, match=f"^{re.escape(message)}$"):
        found.get("head", "same")
    for letter in "ab":
        assert type(found.build("head", f"zoo-{letter}/same")).__module__ == f"zoo_{letter}.head"

    monkeypatch.setenv("HASHZOO_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="Both zoo-a and zoo-b register a head named 'same'; remove one of them"):
        discover()


def test_a_clash_with_a_builtin(site):
    add_head(site, "zoo-a", "register('linear', 'zoo_a.head:Head', summary='')")
    found = discover()
    with pytest.raises(PluginError, match="Both hashzoo and zoo-a register a head named 'linear'"):
        found.get("head", "linear")
    assert found.get("head", "hashzoo/linear")[0].target == "hashzoo.builtin.heads:LinearHead"


def test_one_name_of_two_kinds_is_no_clash(site):
    loss = "\n@hookimpl\ndef hashzoo_register_losses(register):\n    register('same', 'zoo_a.loss:Loss', summary='')"
    add_head(site, "zoo-a", "register('same', 'zoo_a.head:Head', summary='')" + loss)
    found = discover()
    assert found.clashes() == {}
    assert found.get("head", "same")[0].target == "zoo_a.head:Head"
    assert found.get("loss", "same")[0].target == "zoo_a.loss:Loss"


def test_two_distributions_with_one_entry_point_name(site, monkeypatch):
    for letter in "ab":
        add_head(
            site, f"zoo-{letter}", f"register('{letter}', 'zoo_{letter}.head:Head', summary='')", entry_point="heads"
        )
    monkeypatch.setenv("HASHZOO_PLUGINS", "heads")
    found = discover()
    assert [(plugin.distribution, plugin.error) for plugin in found.plugins[1:]] == [("zoo-a", None), ("zoo-b", None)]
    assert found.get("head", "a")[0].owner == "zoo-a"
    assert found.get("head", "b")[0].owner == "zoo-b"


def test_families(site):
    add_head(site, "zoo-a", "register('wide/*', 'zoo_a.head:Head', summary='')")
    found = discover()
    for name in ("wide/deep", "zoo-a/wide/deep"):
        assert found.get("head", name)[1] == {"model": "deep"}
    assert found.build("head", "wide/deep.v2/x", bits=8).model == "deep.v2/x"
    assert found.get("head", "wide/x")[1] == {"model": "x"}
    for name in ("wide", "wide/", "wider/deep", "deep", "zoo-b/wide/deep"):
        with pytest.raises(UnknownNameError, match=f"No head is named '{name}'"):
            found.get("head", name)
    assert found.get("backbone", "timm/resnet50")[1] == {"model": "resnet50"}
    assert found.get("backbone", "hashzoo/torchvision/alexnet")[1] == {"model": "alexnet"}


def test_two_packages_with_one_family(site):
    for letter in "ab":
        add_head(site, f"zoo-{letter}", f"register('wide/*', 'zoo_{letter}.head:Head', summary='')")
    found = discover()
    assert found.clashes() == {("head", "wide/*"): ["zoo-a", "zoo-b"]}
    with pytest.raises(
        PluginError, match="Both zoo-a and zoo-b register a head named 'wide/deep'; write 'zoo-a/wide/deep'"
    ):
        found.get("head", "wide/deep")
    assert found.get("head", "zoo-b/wide/deep")[0].owner == "zoo-b"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("", []),
        (" , ", []),
        ("zoo-a", ["zoo-a"]),
        ("first", ["zoo-a"]),
        (" first , zoo-c", ["zoo-a", "zoo-c"]),
        ("first,second", ["zoo-a", "zoo-b"]),
        ("fir", []),
        (None, ["zoo-a", "zoo-b", "zoo-c"]),
    ],
)
def test_the_environment_limits_plugins(site, monkeypatch, limit, expected):
    for distribution, name in (("zoo-a", "first"), ("zoo-b", "second"), ("zoo-c", "third")):
        add_head(site, distribution, f"register('{name}', 'a:B', summary='')", entry_point=name)
    if limit is not None:
        monkeypatch.setenv("HASHZOO_PLUGINS", limit)
    found = discover()
    owners = [plugin.distribution for plugin in found.plugins]
    assert owners[0] == "hashzoo"
    assert [owner for owner in owners[1:] if limit is not None or owner.startswith("zoo-")] == expected
    assert found.get("head", "linear")  # the built-ins are always there


def test_a_plugin_left_out_is_not_imported(site, monkeypatch):
    site.add("zoo-broken", {"zoo_broken.py": "raise SystemExit"}, {"broken": "zoo_broken"})
    monkeypatch.setenv("HASHZOO_PLUGINS", "")
    monkeypatch.setenv("HASHZOO_STRICT_PLUGINS", "1")
    assert [plugin.distribution for plugin in discover().plugins] == ["hashzoo"]


def test_close_matches_for_a_mistyped_name(good):
    found = discover()
    with pytest.raises(
        UnknownNameError, match=r"^No head is named 'goood' \(did you mean 'good'\?\); `hashzoo plugins` shows"
    ):
        found.get("head", "goood")
    with pytest.raises(UnknownNameError, match=r"^No quantizer is named 'sgn' \(did you mean 'sign'\?\)"):
        found.get("quantizer", "sgn")
    with pytest.raises(UnknownNameError, match=r"^No loss is named 'good'; "):  # a head is no loss
        found.get("loss", "good")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("zoo_a.gone:Head", "No module named 'zoo_a.gone'"),
        ("zoo_a.head:Gone", "has no attribute 'Gone'"),
        ("zoo_a.bad:Head", "RuntimeError: built for another GPU"),
        ("zoo_a.exit:Head", "SystemExit: 1"),
        ("zoo_a.syntax:Head", "SyntaxError"),
    ],
)
def test_targets_that_cannot_be_imported(site, target, reason):
    add_head(site, "zoo-a", f"register('a', '{target}', summary='')")
    for name, text in (
        ("bad", "raise RuntimeError('built for another GPU')"), ("exit", "raise SystemExit(1)"), ("syntax", "def"),
    ):  # fmt: skip
        (site.folder / "zoo_a" / f"{name}.py").write_text(text)
    found = discover()
    assert plugin_of(found, "zoo-a").error is None  # only its use shows it
    message = rf"^The head 'a' of package zoo-a cannot be imported from '{target}' \(.*{reason}.*\); .* zoo-a\.$"
    with pytest.raises(PluginError, match=message):
        found.build("head", "a")


def test_arguments_that_a_component_does_not_take(good):
    with pytest.raises(
        PluginError,
        match=r"^The head 'good' of zoo-good cannot be built with bit=48 \(TypeError: .*argument 'bit'\)\.$",
    ):
        discover().build("head", "good", bit=48)


def test_an_empty_registry():
    empty = Registry([])
    assert empty.components("head") == []
    with pytest.raises(UnknownNameError, match="No head is named 'linear'; `hashzoo plugins` shows what is installed"):
        empty.get("head", "linear")


def test_listing_in_a_fresh_process_imports_nothing_heavy(good, run_python):
    good.add("zoo-broken", {"zoo_broken.py": "raise SystemExit('no')"}, {"broken": "zoo_broken"})
    code = """
import json, sys
import hashzoo
heavy = ["torch", "timm", "torchvision", "numba", "datasets", "huggingface_hub", "zoo_good.head"]
after_import = [name for name in heavy if name in sys.modules]
import hashzoo.registry
found = hashzoo.registry.discover()
heads = [component.name for component in found.components("head")]
errors = {plugin.distribution: plugin.error for plugin in found.plugins}
print(json.dumps([after_import, [name for name in heavy if name in sys.modules], heads, errors]))
"""
    done = run_python(code, PYTHONPATH=good.folder)
    assert done.returncode == 0, done.stderr
    after_import, after_discovery, heads, errors = json.loads(done.stdout)
    assert (after_import, after_discovery) == ([], [])
    assert {"linear", "good"} <= set(heads)
    assert (errors["hashzoo"], errors["zoo-good"], errors["zoo-broken"]) == (None, None, "SystemExit: no")


TYPED = """
from typing import Annotated, Literal, Optional
import pydantic
class Head:
    def __init__(self, feature_shape, bits, num_classes, *, mode: Literal["a", "b"] = "a", width: int = 1, rate: float = 0.5,
                 on: bool = True, sizes: tuple[int, ...] = (), pairs: "list[tuple[int, float]] | None" = None,
                 share: Annotated[float, pydantic.Field(le=1)] = 1.0, text: str = "", untyped=3, thing: object = None,
                 table: Optional[dict] = None, **more):
        self.__dict__.update(locals())
class Needy:
    def __init__(self, feature_shape, bits, num_classes, width: int):
        self.width = width
class Unreadable:
    def __init__(self, feature_shape, bits, num_classes, width: "Nowhere" = 1):
        self.width = width
class Raises:
    def __init__(self, feature_shape, bits, num_classes, error: int = 0):
        raise [AssertionError("two\\n  lines"), FileNotFoundError(2, "gone", "file"), KeyError("x"), SystemExit(3)][error]
"""


@pytest.fixture
def typed(site):
    source = "from hashzoo import hookimpl\n@hookimpl\ndef hashzoo_register_heads(register):\n"
    source += "".join(
        f"    register('{name.lower()}', 'zoo_typed.head:{name}', summary='')\n"
        for name in ("Head", "Needy", "Unreadable", "Raises")
    )
    site.add("zoo-typed", {"zoo_typed/__init__.py": source, "zoo_typed/head.py": TYPED}, {"typed": "zoo_typed"})
    return discover()


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({}, {}),
        ({"mode": "b", "width": 3, "on": False}, {"mode": "b", "width": 3, "on": False}),
        ({"rate": 1}, {"rate": 1.0}),
        ({"sizes": [1, 2]}, {"sizes": (1, 2)}),
        ({"pairs": [[1, 2.5]]}, {"pairs": [(1, 2.5)]}),
        ({"pairs": None}, {"pairs": None}),
    ],
)
def test_a_signature_says_what_a_file_may_set(typed, given, taken):
    made = typed.check_args("head", "head", given)
    assert made == taken
    assert [type(value) for value in made.values()] == [type(value) for value in taken.values()]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"mode": "c"}, ConfigError, r"cannot take mode = 'c' \(Input should be 'a' or 'b'\)"),
        ({"width": "3"}, ConfigError, "cannot take width = '3'"),
        ({"width": 3.0}, ConfigError, "cannot take width = 3.0"),
        ({"width": True}, ConfigError, "cannot take width = True"),
        ({"on": 1}, ConfigError, "cannot take on = 1"),
        ({"rate": "0.5"}, ConfigError, "cannot take rate = '0.5'"),
        ({"rate": None}, ConfigError, "cannot take rate = None"),
        ({"sizes": [1, "2"]}, ConfigError, r"cannot take sizes = \[1, '2'\]"),
        ({"share": 1.5}, ConfigError, "cannot take share = 1.5"),
        ({"bits": 48}, ConfigError, "cannot take 'bits' from a config or recipe: hashzoo gives it"),
        ({"self": 1}, ConfigError, "takes no argument 'self'"),
        ({"more": 1}, ConfigError, "takes no argument 'more'"),
        ({"other": 1}, ConfigError, "takes no argument 'other' .*; it takes mode, width, rate, "),
        ({"widht": 1}, ConfigError, r"takes no argument 'widht' .*\(did you mean 'width'\?\)"),
        ({"text": "a"}, PluginError, "does not say which values its argument 'text' takes; its author has to"),
        ({"untyped": 3}, PluginError, "does not say which values its argument 'untyped' takes"),
        ({"thing": 3}, PluginError, "does not say which values its argument 'thing' takes"),
        ({"table": None}, PluginError, "does not say which values its argument 'table' takes"),
    ],
)
def test_what_a_signature_does_not_say_is_refused(typed, given, error, said):
    with pytest.raises(error, match=rf"^The head 'head' of zoo-typed {said}"):
        typed.check_args("head", "head", given)


def test_what_a_signature_needs(typed):
    assert typed.check_args("head", "needy", {"width": 2}) == {"width": 2}
    with pytest.raises(ConfigError, match=r"^The head 'needy' of zoo-typed needs the argument 'width'; give it in"):
        typed.check_args("head", "needy", {})
    assert typed.check_args("head", "unreadable", {}) == {}
    with pytest.raises(PluginError, match=r"^The head 'unreadable' of zoo-typed has a signature that .*Nowhere"):
        typed.check_args("head", "zoo-typed/unreadable", {"width": 1})


@pytest.mark.parametrize(
    ("error", "said"),
    list(enumerate(["AssertionError: two lines", "FileNotFoundError: .*gone.*", "KeyError: 'x'", "SystemExit: 3"])),
)
def test_whatever_a_constructor_raises_is_one_sentence(typed, error, said):
    message = rf"^The head 'raises' of zoo-typed cannot be built with bits=12, error={error}, .* \({said}\)\.$"
    with pytest.raises(PluginError, match=message):
        typed.build("head", "zoo-typed/raises", bits=12, error=error, feature_shape=(), num_classes=2)
