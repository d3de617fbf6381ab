"""What is installed with which extra, and what is said where one is missing."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from hashzoo.errors import MissingExtraError, install_line, require_extra
from hashzoo.registry import is_installed, package_of

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# what each extra brings is missing; only names of that extra may then fail
HIDDEN = """
import importlib.abc, importlib.util, json, sys

hidden, lines = json.loads(sys.argv[1]), json.loads(sys.argv[2])

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in hidden else find(name, *rest)
from hashzoo.cli import main

codes = []
for line in lines:
    sys.argv = ["hashzoo", *line]
    try:
        main()
    except SystemExit as end:
        codes.append(end.code or 0)
print("\\n" + json.dumps(codes))
"""
OPTIONAL = ("accelerate", "datasets", "matplotlib", "tomli_w", "faiss")


def test_all_holds_our_plugins_at_the_same_version():
    ours = {}
    for path in sorted((ROOT / "plugins").glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        ours[project["name"]] = project["version"]
    assert set(ours.values()) == {PROJECT["version"]}
    assert {line for line in EXTRAS["all"] if "==" in line} == {f"{name}=={PROJECT['version']}" for name in ours}
    (extras,) = [line for line in EXTRAS["all"] if "==" not in line]
    assert set(re.fullmatch(r"hashzoo\[(.*)\]", extras)[1].split(",")) == EXTRAS.keys() - {"all"}


def test_no_package_is_in_the_core_and_in_an_extra():
    core = {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}
    for name in EXTRAS.keys() - {"all"}:
        assert core.isdisjoint(re.match(r"[\w-]+", line)[0] for line in EXTRAS[name])


@pytest.fixture
def run_core(run_python):
    """Run command lines in one process that cannot import what extras bring; give the exit codes and what was said."""

    def run(*lines):
        done = run_python(HIDDEN, json.dumps(OPTIONAL), json.dumps([line.split() for line in lines]), HASHZOO_DATA="")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    return run


def test_the_core_alone_runs(run_core, tmp_path):
    model, photos, index = "dsbh-cnn3-cifar10-12bit", ROOT / "examples" / "photos", tmp_path / "index"
    lines = (
        "list",
        "list --methods",
        "plugins",
        f"info {model}",
        f"verify {model}",
        f"encode {model} {photos / 'dog.jpg'}",
        f"index {photos} --model {model} --out {index}",
        f"search {index} {photos / 'dog.jpg'}",
    )
    codes, said = run_core(*lines)
    assert dict(zip(lines, codes, strict=True)) == dict.fromkeys(lines, 0), said


def test_a_missing_extra_is_named_with_the_line_that_installs_it(run_core, tmp_path):
    codes, said = run_core(f"train dsbh --out {tmp_path}", "eval dsbh-cnn3-cifar10-12bit", "plugin check sign")
    assert codes == [2, 2, 2]
    assert said.count("This needs the extra hashzoo[train] (") == 3
    assert said.count(f"`{install_line('hashzoo[train]')}`") == 3
    assert "Traceback" not in said


def test_the_line_is_for_this_environment(monkeypatch, tmp_path):
    line = "/my env/bin/python' -m pip install 'hashzoo[train]'"
    monkeypatch.setattr(sys, "executable", "/my env/bin/python")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert install_line("hashzoo[train]") == "'" + line
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # an environment without pip
    assert install_line("hashzoo-dahp") == "uv pip install --python '/my env/bin/python' hashzoo-dahp"
    (tmp_path / "uv-receipt.toml").touch()  # that of `uv tool`
    assert install_line("hashzoo-dahp") == "uv tool install hashzoo --with hashzoo-dahp"
    assert install_line("hashzoo[train]") == "uv tool install 'hashzoo[train]'"
    assert install_line("--upgrade", "hashzoo", "mine") == "uv tool install hashzoo --upgrade --with mine"


def test_what_is_there_is_not_missing():
    require_extra("train", "json", "os")
    with pytest.raises(MissingExtraError, match=r"hashzoo\[train\] \(no_such_module is not installed\)"):
        require_extra("train", "json", "no_such_module")


def test_whether_a_package_is_missing_is_told_without_importing_it(run_python):
    code = "import sys; from hashzoo.registry import is_installed\n"
    code += "print(is_installed('hashzoo-dahp'), 'hashzoo_dahp' in sys.modules, 'torch' in sys.modules)"
    assert run_python(code).stdout == "True False False\n"
    assert not is_installed("no-such-package") and not is_installed("")
    assert package_of("loss", "csq", "hashzoo-baselines") == "hashzoo-baselines"
    for kind, name in (("head", "itq"), ("method", "lsh")):  # the core has them now
        assert package_of(kind, name, "hashzoo-baselines") == "hashzoo"
