"""The site builds strictly; what it says of hooks, contracts and commands is what the code has."""

import html
import inspect
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from hashzoo import hookspecs
from hashzoo.cli import app
from hashzoo.registry import HOOKS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; give its folder."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]  # --quiet would hide warnings
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def section(site, name):
    """A definition of hookspecs on the page of contracts, as text without spaces, up to the next one."""
    page = (site / "contracts" / "index.html").read_text(encoding="utf-8")
    _, found, rest = page.partition(f'id="hashzoo.hookspecs.{name}"')
    assert found, name
    return re.sub(r"<[^>]+>|\s", "", html.unescape(rest.partition("<h2 ")[0]))


def signature(function):
    """A function's name and signature without self, without spaces."""
    return re.sub(r"self,|['\s]", "", f"{function.__name__}{inspect.signature(function)}")


def test_the_hooks_are_on_the_site(site):
    hooks = [function for name, function in vars(hookspecs).items() if name.startswith("hashzoo_register_")]
    assert len(hooks) == len(HOOKS)
    for hook in hooks:
        assert signature(hook) in section(site, hook.__name__)
    assert signature(hookspecs.Register.__call__) in section(site, "Register")


@pytest.mark.parametrize("name", ["Backbone", "Head", "Quantizer", "Loss", "HashOutput"])
def test_the_contracts_are_on_the_site(site, name):
    contract, text = getattr(hookspecs, name), section(site, name)
    if name != "HashOutput":
        assert signature(contract.__call__) in text
        assert "builtastarget(" in text
    for attribute, kind in getattr(contract, "__annotations__", {}).items():
        assert attribute + re.sub(r"\s", "", kind) in text


def test_the_cards_are_on_the_site(site):
    page = (site / "zoo" / "index.html").read_text(encoding="utf-8")
    cards = sorted(ROOT.glob("model_cards/*/README.md"))
    assert cards
    for card in cards:
        assert f'href="../model_cards/{card.parent.name}/"' in page
        assert (site / "model_cards" / card.parent.name / "index.html").exists()
        for name in ("pr-curve.png", "recipe.toml"):
            assert (site / "model_cards" / card.parent.name / name).exists()


def parse(line):
    """Parse a command line as `hashzoo` would, without running it."""
    command = typer.main.get_command(app)
    _, *arguments = shlex.split(line, comments=True)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)


def commands(page):
    """Lines of a page's blocks that run hashzoo or make."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = [
        re.match(r"(?:\w+=\S+ )*((?:hashzoo|make) .*)", line)
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line[1] for line in found if line]


def test_the_commands_of_the_pages_are_real():
    pages = (*ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/README.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
    lines = {str(page.relative_to(ROOT)): commands(page) for page in pages}
    wanted = {"README.md", "CONTRIBUTING.md", "docs/hub.md", "docs/numbers.md", "docs/plugins.md"}
    assert {page for page, found in lines.items() if found} >= wanted | {
        f"plugins/hashzoo-{name}/README.md" for name in ("dsbh", "dphb", "dahp", "baselines")
    }
    makefile = (ROOT / "Makefile").read_text()
    for line in itertools.chain(*lines.values()):
        if line.startswith("make "):
            assert f"\n{line.split()[1]}:" in makefile, line
        else:
            parse(line)
    for wrong in ("hashzoo eval", "hashzoo eval a --no-such", "hashzoo train a --out b --bits many"):
        with pytest.raises(Exception, match=r"(?i)missing|no such|valid integer"):
            parse(wrong)
