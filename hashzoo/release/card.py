"""The card: README.md of a model's folder, generated from its config, results and recipe."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml

from hashzoo.config import ModelConfig, read_json, read_toml
from hashzoo.errors import ConfigError
from hashzoo.files import read_bytes, write_text
from hashzoo.text import clean
from hashzoo.zoo.names import describe
from hashzoo.zoo.results import Results

BEGIN = "<!-- hashzoo:begin, generated; write your own paragraphs below hashzoo:end -->"
END = "<!-- hashzoo:end -->"
NO_ORIGIN = "The method is described in the README of the package that registers it."
FRONT = re.compile(r"\A---\r?\n(.*?)\n---(?:\r?\n|\Z)", re.DOTALL)


class Markdown(str):
    """Words that may format a card."""


def write_card(folder: str | Path) -> None:
    """Write README.md; what a person wrote outside the generated block stays."""
    folder = Path(folder)
    path = folder / "README.md"
    write_text(path, render_card(folder, read_card(path) if path.exists() else ""))


def read_card(path: Path) -> str:
    """Read a card.

    Raises:
        ConfigError: it is missing, too large, or no text.
    """
    try:
        return read_bytes(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a card ({getattr(error, 'strerror', None) or error}).") from error


def render_card(folder: str | Path, old: str = "", source: str | None = None) -> str:
    """Make the card's text from the folder's config.json, results.json and recipe.toml.

    Args:
        folder: a model's folder with at least one result.
        old: the card as it is; text outside its generated block is kept, below the new one, and so is metadata under
            keys that hashzoo does not write.
        source: what the card's example loads; default what the old card's does, else the model's name.

    Raises:
        ConfigError: a file is missing or wrong, or there is no result yet.
    """
    folder = Path(folder)
    config = read_json(ModelConfig, folder / "config.json")
    results = read_json(Results, folder / "results.json")
    if not results.rows:
        raise ConfigError(f"{folder} has no results yet; `hashzoo eval local-dir:{folder} --update` makes them.")
    recipe = read_toml(folder / "recipe.toml")
    environment = jinja2.Environment(  # noqa: S701 - Markdown, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_inline,
        keep_trailing_newline=True,
    )
    template = importlib.resources.files("hashzoo.release").joinpath("card.md.jinja").read_text(encoding="utf-8")
    facts = describe(folder)
    block = environment.from_string(template).render(
        config=config, training=results.trained, rows=results.rows, row=results.rows[0],
        elsewhere=[row for row in results.rows if (row.dataset or config.dataset) != config.dataset], spread=results.spread(),
        recipe=recipe, origin=_paragraph(recipe.get("origin") or NO_ORIGIN), size=facts["size"], weights=facts["weights"],
        source=source or _source(old) or config.name,
    )  # fmt: skip
    own = own_words(old)
    text = f"{BEGIN}\n{block.strip()}\n{END}\n" + (f"\n{own}\n" if own else "")
    front = _metadata(config, results) | ({"hashzoo_source": source} if source else {})
    return _with_front(front, old, text)


def _source(card: str) -> str | None:
    """What a card's example loads, if not the model's name: metadata say so, or in a card of hashzoo 0.1.0 the example."""
    said = _front(card).get("hashzoo_source")
    if isinstance(said, str) and re.fullmatch(r"hf-hub:[^\"\s]+", said):
        return said
    shown = re.search(r'hashzoo\.load\("(hf-hub:[^"\s]+)"\)', card)
    return shown[1] if shown else None


def _inline(value: object) -> object:
    """Keep a value on its line of the card, and its letters from opening a link, a tag, code or a cell."""
    if not isinstance(value, str) or isinstance(value, Markdown):
        return value
    return re.sub(r"[<\[\]`|]", lambda sign: f"&#{ord(sign[0])};", clean(value))


def _paragraph(words: object) -> Markdown:
    """Let a recipe's own words into the card as they are, but for HTML."""
    return Markdown("\n".join(clean(line).replace("<", "&lt;") for line in str(words).split("\n")))


def own_words(card: str) -> str:
    r"""Return what people wrote around a card's generated block; all but the metadata of a card that has none.

    >>> own_words(f"---\nlicense: mit\n---\nAbove.\n{BEGIN}\n# demo\n{END}\nBelow.")
    'Above.\n\nBelow.'
    """
    above, _, rest = FRONT.sub("", card).partition(BEGIN)
    return "\n\n".join(filter(None, (above.strip(), rest.partition(END)[2].strip())))


def merge_own(card: str, other: str) -> str | None:
    """Give `card` the words and metadata that people wrote in `other`; None if it has other words of its own."""
    ours, theirs = own_words(card), own_words(other)
    if theirs not in ours:
        if ours:
            return None
        card = f"{card.rstrip()}\n\n{theirs}\n"
    return _with_front(_front(card), other, FRONT.sub("", card))


def _front(card: str) -> dict[str, Any]:
    """Read a card's metadata; a card is anybody's, and what cannot be read is as good as none."""
    found = FRONT.match(card)
    try:
        data = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, RecursionError):
        data = None
    return data if isinstance(data, dict) else {}


def _with_front(metadata: dict[str, Any], other: str, text: str) -> str:
    """Put metadata before a card's text, and what `other` has under further keys."""
    front = metadata | {key: value for key, value in _front(other).items() if key not in metadata}
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{text}"


def _metadata(config: ModelConfig, facts: Results) -> dict[str, Any]:
    """The card's metadata, as the Hub reads it; the protocol is the data set's config, so that two never merge."""
    results = [
        {
            "task": {"type": "image-feature-extraction", "name": "Image retrieval"},
            "dataset": {
                "type": (dataset := row.dataset or config.dataset),
                "name": dataset,
                "config": row.protocol,
                "split": "query",
            },
            "metrics": [
                {
                    "type": "mean_average_precision",
                    "name": f"mAP@{row.top_k or 'all'}, {row.bits} bits",
                    "value": row.map,
                    "args": {"bits": row.bits, "top_k": row.top_k or "all", "ties": row.ties},
                }
            ],
        }
        for row in facts.rows
    ]
    base_model = {"base_model": facts.trained.base_model} if facts.trained.base_model else {}
    return {
        "library_name": "hashzoo",
        "license": config.license,
        **base_model,
        "pipeline_tag": "image-feature-extraction",
        "tags": ["hashzoo", "image-retrieval", "deep-hashing", "learning-to-hash", config.method, f"{config.bits}-bit"],
        "datasets": [config.dataset],
        "metrics": ["mean_average_precision"],
        "model-index": [{"name": config.name, "results": results}],
    }
