"""`hashzoo plugins`, `hashzoo plugin` and `hashzoo list --methods`."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from hashzoo.cli import app
from hashzoo.errors import HashzooError, UnknownNameError
from hashzoo.registry import Plugin, Registry, discover, using

HOOK = "from hashzoo import hookimpl\n@hookimpl\ndef hashzoo_register_quantizers(register):\n"
QUANTIZERS = """
import torch
from hashzoo.builtin.quantizers import Sign

class Zero(Sign):
    def forward(self, u):
        return super().forward(u) if self.training else u.sign()
"""


@pytest.fixture
def installed(site):
    """A package with one good and one bad quantizer and a family, and one that does not load."""
    register = "    register('{}', 'zoo_mixed.parts:{}', summary='A quantizer')\n"
    files = {
        "zoo_mixed/__init__.py": HOOK
        + "".join(map(register.format, ("fine", "bad", "kin/*"), ("Sign", "Zero", "Sign"))),
        "zoo_mixed/parts.py": QUANTIZERS,
    }
    site.add("zoo-mixed", files, {"mixed": "zoo_mixed"})
    site.add("zoo-broken", {"zoo_broken.py": "\nimport nowhere"}, {"broken": "zoo_broken"})
    with using(discover()):
        yield site.folder


def run(*arguments, code=0):
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_a_report(installed):
    lines = run("plugin", "check", "zoo-mixed", code=1).splitlines()
    assert lines == [
        "quantizer zoo-mixed/fine: 17 checks, all passed",
        "quantizer zoo-mixed/bad: 17 checks, 1 failed",
        "quantizer zoo-mixed/kin/*: not checked; name a member of this family",
        "quantizer zoo-mixed/bad: check_agrees_with_sign: in evaluation mode u = -0 becomes 0, not +1",
    ]
    assert run("plugin", "check", "fine") == "quantizer fine: 17 checks, all passed\n"
    assert run("plugin", "check", "mixed", code=1).splitlines() == lines  # by its entry point


def test_a_report_for_programs(installed):
    report = json.loads(run("plugin", "check", "zoo-mixed", "--json", code=1))
    assert len(report) == 2 * 17
    assert [result for result in report if not result["ok"]] == [
        {
            "subject": "quantizer zoo-mixed/bad",
            "check": "check_agrees_with_sign",
            "ok": False,
            "problem": "in evaluation mode u = -0 becomes 0, not +1",
        }
    ]
    assert all(result["ok"] for result in json.loads(run("plugin", "check", "fine", "--json")))


def test_a_report_of_a_plugin_that_does_not_load(installed):
    problem = f"ModuleNotFoundError: No module named 'nowhere'; fix {installed}/zoo_broken.py:2"
    assert run("plugin", "check", "zoo-broken", code=1) == f"zoo-broken: loads: {problem}\n"
    report = json.loads(run("plugin", "check", "zoo-broken", "--json", code=1))
    assert report == [{"subject": "zoo-broken", "check": "loads", "ok": False, "problem": problem}]


def test_names_that_nothing_has(installed):
    with pytest.raises(
        UnknownNameError, match=r"^No package or component is named 'zoo-mixd' \(did you mean 'zoo-mixed'"
    ):
        run("plugin", "check", "zoo-mixd")


def test_the_listing(installed):
    text = run("plugins")
    assert (
        f"zoo-broken 1.0 is broken: ModuleNotFoundError: No module named 'nowhere'\n  fix {installed}/zoo_broken.py:2"
        in text
    )
    (row,) = [line for line in text.splitlines() if " bad " in line]
    assert row.split() == ["zoo-mixed", "1.0", "1", "quantizer", "bad", "A", "quantizer"]
    plugins = {plugin["package"]: plugin for plugin in json.loads(run("plugins", "--json"))["plugins"]}
    assert plugins["zoo-broken"]["where"] == f"{installed}/zoo_broken.py:2"
    assert (plugins["zoo-mixed"]["where"], plugins["zoo-mixed"]["error"], plugins["zoo-mixed"]["api"]) == (
        None,
        None,
        1,
    )


def test_a_plugin_of_an_old_version_of_the_hooks_is_marked():
    old = Plugin("old", "zoo-old", "1.0", notice="it is written for version 0 of the hooks")
    with using(Registry([old])):
        assert "zoo-old 1.0: it is written for version 0 of the hooks" in run("plugins")
        (plugin,) = json.loads(run("plugins", "--json"))["plugins"]
        assert plugin["notice"] == old.notice


def test_methods():
    found = {item["name"]: item for item in json.loads(run("list", "--methods", "--json"))}
    assert {"dahp", "dphb", "dsbh"} <= found.keys()
    assert (found["dsbh"]["package"], found["dsbh"]["version"]) == ("hashzoo-dsbh", "0.2.0.dev0")
    (line,) = [line for line in run("list", "dsb*", "--methods").splitlines() if "hashzoo-" in line]
    assert line.split()[:3] == ["dsbh", "hashzoo-dsbh", "0.2.0.dev0"]
    with pytest.raises(HashzooError, match="--methods lists what is installed and takes a pattern only"):
        run("list", "--methods", "--bits", "48")


def test_only_a_check_loads_torch(tmp_path):
    code = """
import sys
from hashzoo.cli import app
for line in ("plugins", "list --methods", "plugin new its-loss --kind loss", "plugin check --help"):
    try:
        app(line.split(), standalone_mode=False)
    except SystemExit:
        pass
    assert "torch" not in sys.modules, line
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
