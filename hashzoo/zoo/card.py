"""The card: README.md of a model's folder, generated from its config, results and recipe."""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from pathlib import Path
from typing import Any

import jinja2
import yaml

from hashzoo.config import ModelConfig, read_json
from hashzoo.errors import ConfigError
from hashzoo.files import write_text
from hashzoo.zoo.index import describe
from hashzoo.zoo.results import ResultRow, Results

BEGIN = "<!-- hashzoo:begin, generated; write your own paragraphs below hashzoo:end -->"
END = "<!-- hashzoo:end -->"


def write_card(folder: str | Path) -> None:
    """Write README.md; what a person wrote outside the generated block stays."""
    folder = Path(folder)
    path = folder / "README.md"
    write_text(path, render_card(folder, path.read_text(encoding="utf-8") if path.exists() else ""))


def render_card(folder: str | Path, old: str = "", source: str | None = None) -> str:
    """Make the card's text from the folder's config.json, results.json and recipe.toml.

    Args:
        folder: a model's folder with at least one result.
        old: the card as it is; text after its generated block is kept.
        source: what the card's example loads; default what the old card's does, else the model's name.

    Raises:
        ConfigError: a file is missing or wrong, or there is no result yet.
    """
    folder = Path(folder)
    config = read_json(ModelConfig, folder / "config.json")
    results = read_json(Results, folder / "results.json")
    if not results.rows:
        raise ConfigError(f"{folder} has no results yet; `hashzoo eval local-dir:{folder} --update` makes them.")
    recipe = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
    named = re.search(r'hashzoo\.load\("(hf-hub:[^"\s]+)"\)', old)
    environment = jinja2.Environment(  # noqa: S701 - Markdown, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    template = importlib.resources.files("hashzoo.zoo").joinpath("card.md.jinja").read_text(encoding="utf-8")
    block = environment.from_string(template).render(
        config=config, training=results.training, rows=results.rows, row=results.rows[0], recipe=recipe,
        size=describe(folder)["size"], source=source or (named[1] if named else config.name),
    )  # fmt: skip
    own = own_words(old)
    front = yaml.safe_dump(_metadata(config, results.rows), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{BEGIN}\n{block.strip()}\n{END}\n" + (f"\n{own}\n" if own else "")


def own_words(card: str) -> str:
    """Return what people wrote below a card's generated block."""
    return card.partition(END)[2].strip()


def merge_own(card: str, other: str) -> str | None:
    """Give `card` the words that people wrote in `other`; None if it has others of its own."""
    ours, theirs = own_words(card), own_words(other)
    if theirs in ours:
        return card
    return f"{card.rstrip()}\n\n{theirs}\n" if not ours else None


def _metadata(config: ModelConfig, rows: tuple[ResultRow, ...]) -> dict[str, Any]:
    """The card's metadata, as the Hub reads it; the protocol is the data set's config, so that two never merge."""
    results = [
        {
            "task": {"type": "image-feature-extraction", "name": "Image retrieval"},
            "dataset": {"type": config.dataset, "name": config.dataset, "config": row.protocol, "split": "query"},
            "metrics": [
                {
                    "type": "mean_average_precision",
                    "name": f"mAP@{row.top_k or 'all'}, {row.bits} bits",
                    "value": row.map,
                    "args": {"bits": row.bits, "top_k": row.top_k or "all", "ties": row.ties},
                }
            ],
        }
        for row in rows
    ]
    return {
        "library_name": "hashzoo",
        "license": config.license,
        "pipeline_tag": "image-feature-extraction",
        "tags": ["hashzoo", "image-retrieval", "deep-hashing", "learning-to-hash", config.method, f"{config.bits}-bit"],
        "datasets": [config.dataset],
        "metrics": ["mean_average_precision"],
        "model-index": [{"name": config.name, "results": results}],
    }
