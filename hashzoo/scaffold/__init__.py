"""`hashzoo plugin new`: a package that adds a component, written from templates."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path
from typing import Literal

import jinja2

from hashzoo.errors import ConfigError
from hashzoo.registry import registry

Kind = Literal["loss", "head", "backbone", "quantizer", "method"]
PARTS = ("backbone", "head", "loss", "quantizer")


def write_package(name: str, kind: Kind, parent: Path) -> Path:
    """Write a package that registers a component of this kind and a recipe that trains with it.

    Args:
        name: of the package; its components are named likewise, without a leading `hashzoo-`.
        kind: what it adds; "method" adds all four components.
        parent: the folder to write into.

    Returns:
        The package's folder, `parent/name`.

    Raises:
        ConfigError: the name is no name for a package, is taken, or its folder exists.

    >>> import tempfile
    >>> folder = write_package("my-loss", "loss", Path(tempfile.mkdtemp()))
    >>> sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
    ['README.md', 'my_loss/__init__.py', 'my_loss/loss.py', 'my_loss/my-loss.toml', 'pyproject.toml', 'tests/test_my_loss.py']
    """
    own = PARTS if kind == "method" else (kind,)
    module, short = name.replace("-", "_"), name.removeprefix("hashzoo-")
    _check_name(name, module, short, own)
    words = "".join(word.capitalize() for word in short.split("-"))
    classes = {part: words if words.endswith(part.capitalize()) else words + part.capitalize() for part in own}
    facts = {"name": name, "module": module, "short": short, "kind": kind, "own": own, "classes": classes}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hashzoo.scaffold", "template"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}/__init__.py": "hooks.py",
        f"{module}/{short}.toml": "recipe.toml",
        f"tests/test_{module}.py": "tests.py",
        **{f"{module}/{part}.py": f"{part}.py" for part in own},
    }
    files = {path: environment.get_template(f"{file}.jinja").render(facts) for path, file in templates.items()}
    folder = parent / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} exists; remove it, or choose another name.") from error
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def _check_name(name: str, module: str, short: str, own: tuple[str, ...]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(module):
        raise ConfigError(
            f"{name!r} is no name for a package; use lower-case letters and digits, words joined by '-', such as my-method."
        )
    if importlib.util.find_spec(module):
        raise ConfigError(f"Python has a module named {module} already; choose another name than {name!r}.")
    for part in (*own, "method"):
        for item in registry().components(part):
            if item.name == short:
                raise ConfigError(
                    f"{item.owner} registers a {part} named {short!r}; choose another name than {name!r}."
                )
