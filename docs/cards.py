"""Put the cards of the models that ship on the site; docs/zoo.md links to them where they are in a checkout."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add each card, and the files beside it that it shows or links to."""
    for name in ("README.md", "pr-curve.png", "recipe.toml"):
        for path in sorted(ROOT.glob(f"model_cards/*/{name}")):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links into model_cards/ to the pages of this site."""
    return markdown.replace("](../model_cards/", "](model_cards/")
