"""`hashzoo plugin new`: its packages pass their tests untouched; docs/plugins.md is done step by step, and is true."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hashzoo.cli import app
from hashzoo.errors import ConfigError
from hashzoo.registry import HOOKS, discover, registry, using
from hashzoo.scaffold import write_package

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
KINDS = ("backbone", "head", "loss", "quantizer", "method")
BEGIN = "## A package, with a recipe and tests"
LESSON = PAGE[PAGE.index(BEGIN) : PAGE.index("## Checks")]
# (the file a block is for, or None; its language; its text)
BLOCKS = [
    (re.findall(r"`(my-loss/[^`]+)`", text)[-1] if language != "bash" else None, language, block)
    for text, language, block in re.findall(r"(.*?)```(\w+)\n(.*?)```", LESSON, flags=re.DOTALL)
]

# One process for all commands, because each would import torch anew: what a shell would do, line by line.
DRIVER = """
import contextlib, io, json, shlex, sys
import pytest
from hashzoo.cli import app

done = []
for line in json.loads(sys.argv[1]):
    program, *arguments = shlex.split(line)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        if program == "pytest":
            code = int(pytest.main(["-q", "-p", "no:cacheprovider", *arguments]))
        else:
            assert program == "hashzoo", line
            try:
                code = app(arguments, standalone_mode=False) or 0
            except Exception as error:
                code = repr(error)
    done.append([line, code, out.getvalue()])
print(json.dumps(done))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Make an empty environment that sees this one's packages; give its Python."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "these.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})")
    return folder / "bin" / "python"


def install(python, folders):
    """As `pip install -e` does, without a network."""
    uv = Path(sys.executable).with_name("uv")
    options = ["--quiet", "--offline", "--no-deps", "--no-build-isolation", "--python", python]
    subprocess.run([uv, "pip", "install", *options, *(f"--editable={folder}" for folder in folders)], check=True)


def make_pictures(folder):
    """Two classes of different colour, in train and test."""
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 2)):
        for label, colour in (("cat", 60), ("dog", 160)):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(colour - 40, colour + 40, (24, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")


def test_the_lesson_and_every_kind(python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, *later = [block for _, language, block in BLOCKS if language == "bash"]
    new, pip, listing = first.splitlines()
    assert CliRunner().invoke(app, shlex.split(new)[1:]).exit_code == 0
    assert pip == "pip install -e my-loss"
    others = [f"its-{kind}" for kind in KINDS]
    for kind, name in zip(KINDS, others, strict=True):
        assert write_package(name, kind, tmp_path) == tmp_path / name
    install(python, ["my-loss", *others])
    for path, _, block in BLOCKS:
        if path:
            assert Path(path).exists()
            Path(path).write_text(block)
    make_pictures(tmp_path / "pictures")
    lines = [
        listing,
        "hashzoo plugins --json",
        *later[0].splitlines(),
        "hashzoo list --methods",
        f"pytest {' '.join(others)}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-c", DRIVER, json.dumps(lines)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert [code for _, code, _ in results] == [0] * len(lines), results
    out = {line: text for line, _, text in results}
    plugins = {plugin["package"]: plugin for plugin in json.loads(out["hashzoo plugins --json"])["plugins"]}
    for kind, name in [*zip(KINDS, others, strict=True), ("loss", "my-loss")]:
        kinds = set(HOOKS) if kind == "method" else {kind, "method"}
        assert {(item["kind"], item["name"]) for item in plugins[name]["components"]} == {(k, name) for k in kinds}
        assert (plugins[name]["api"], plugins[name]["error"]) == (1, None)
        assert name in out["hashzoo list --methods"]
    assert len(re.findall("checks, all passed", out["hashzoo plugin check my-loss"])) == 2
    assert " failed" not in out["pytest my-loss"]
    results = json.loads(next(Path("runs").rglob("results.json")).read_text())
    assert results["rows"][0]["protocol"] == "split"
    assert len(Path("runs/my-loss/log.csv").read_text().splitlines()) == 3


def test_what_is_written_is_clean(tmp_path):
    for kind in KINDS:
        write_package(f"hashzoo-its-{kind}", kind, tmp_path)
    texts = [path.read_text() for path in tmp_path.rglob("*.*") if path.is_file()]
    assert not any("{{" in text or "{%" in text for text in texts)
    ruff = Path(sys.executable).with_name("ruff")
    options = ["--isolated", "--quiet", "--line-length=120", "."]
    for folder in tmp_path.iterdir():  # each is a project of its own
        subprocess.run([ruff, "check", "--select=E,F,W,I,UP,B,RUF", *options], cwd=folder, check=True)
        subprocess.run([ruff, "format", "--check", *options], cwd=folder, check=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("My-Loss", "'My-Loss' is no name for a package; use lower-case letters"),
        ("my_loss", "'my_loss' is no name for a package"),
        ("-loss", "'-loss' is no name"),
        ("loss-", "'loss-' is no name"),
        ("2loss", "'2loss' is no name"),
        ("../loss", r"'\.\./loss' is no name"),
        ("", "'' is no name"),
        ("lambda", "'lambda' is no name"),
        ("json", "Python has a module named json already; choose another name than 'json'"),
        ("hashzoo-dsbh", "Python has a module named hashzoo_dsbh already"),
        ("dsbh", "hashzoo-dsbh registers a loss named 'dsbh'; choose another name than 'dsbh'"),
        ("hashzoo-classification", "hashzoo registers a loss named 'classification'"),
    ],
)
def test_names_that_are_refused(tmp_path, name, reason):
    with pytest.raises(ConfigError, match=f"^{reason}"):
        write_package(name, "loss", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_overwritten(tmp_path):
    (tmp_path / "my-loss").mkdir()
    (tmp_path / "my-loss" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="my-loss exists; remove it, or choose another name"):
        write_package("my-loss", "loss", tmp_path)
    assert [path.name for path in (tmp_path / "my-loss").iterdir()] == ["notes.txt"]


# The rest of the page


def test_the_plugin_of_ten_lines(site):
    """The file of the page is installed as it stands, is listed, passes `plugin check`, and its method trains."""
    section = PAGE[PAGE.index("## A plugin of ten lines") : PAGE.index(BEGIN)]
    module, method, notebook = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    (project,) = re.findall(r"```toml\n(.*?)```", section, flags=re.DOTALL)
    assert len([line for line in module.splitlines() if line]) == 10
    facts = tomllib.loads(project)["project"]
    assert facts["name"] == "my-pairs"
    site.add(facts["name"], {"my_pairs.py": module + method}, facts["entry-points"]["hashzoo.plugins"])
    with using(discover()):
        (plugin,) = [plugin for plugin in registry().plugins if plugin.distribution == "my-pairs"]
        assert (plugin.error, [item.kind for item in plugin.components]) == (None, ["loss", "method"])
        done = CliRunner().invoke(app, ["plugin", "check", "my-pairs"])
        assert done.exit_code == 0, done.output
        assert len(re.findall("checks, all passed", done.output)) == 2
        exec(notebook, {"Pairs": registry().get("loss", "my-pairs")[0].load()})
        assert registry().get("loss", "pairs-here")[0].owner == "hashzoo.register"


def test_a_name_without_its_prefix(tmp_path):
    folder = write_package("hashzoo-its-loss", "loss", tmp_path)
    hooks = (folder / "hashzoo_its_loss" / "__init__.py").read_text()
    assert 'register("its-loss", "hashzoo_its_loss.loss:ItsLoss"' in hooks
    assert (folder / "hashzoo_its_loss" / "its-loss.toml").exists()


def blocks(title):
    section = PAGE[PAGE.index(f"## {title}") :]
    return re.findall(r"```python\n(.*?)```", section[: section.find("\n## ", 5)], flags=re.DOTALL)


def test_the_code_under_checks_runs():
    (code,) = blocks("Checks")
    exec(code, {})
    with pytest.raises(AssertionError, match="check_shapes: passes; take it out of the expected failures"):
        exec(code.replace("check_agrees_with_sign", "check_shapes"), {})
