"""The record of a model: results.json, and the codes, plot and card that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hashzoo.config import read_json, read_toml
from hashzoo.errors import ConfigError
from hashzoo.files import write_text
from hashzoo.release.card import write_card
from hashzoo.release.plots import plot_curves
from hashzoo.zoo.published_codes import FILE as CODES_FILE
from hashzoo.zoo.published_codes import PublishedCodes, write_codes
from hashzoo.zoo.results import Repeat, ResultRow, Results, repeats_of


@dataclass(frozen=True)
class Record:
    """A model's folder, and its results.json as it was read, or written, last."""

    folder: Path
    results: Results


def read_record(folder: str | Path) -> Record:
    """Read a folder's results.json.

    Raises:
        ConfigError: it is missing or wrong.
    """
    return Record(Path(folder), read_json(Results, Path(folder) / "results.json"))


def write_results(record: Record, row: ResultRow, published: PublishedCodes) -> Record:
    """Write a row into results.json (in place of one under the same protocol), codes.parquet, the curve and the card.

    Repeats stay as far as they are still repeats of the first row, see `repeats_of`.
    """
    folder, results = record.folder, record.results
    rows = tuple(old for old in results.rows if old.protocol != row.protocol)
    first = row.protocol == results.trained.protocol
    rows = (row, *rows) if first else (*rows, row)
    repeats = repeats_of(results.trained, rows[0], results.repeats)
    results = _write(folder, results.model_copy(update={"rows": rows, "repeats": repeats}))
    if first:  # the card's number is the one whose codes are kept
        write_codes(folder / CODES_FILE, published)
        plot_curves(folder / "pr-curve.png", row)
    write_card(folder)
    return Record(folder, results)


def check_repeat(record: Record, run: Record) -> None:
    """Refuse a run that is no repeat of a model: the same recipe with another seed.

    Args:
        record: the model's.
        run: the other seed's.

    Raises:
        ConfigError: the recipes differ in more than the seed, or not in the seed, or the model has no result of its own.
    """
    ours, theirs = record.results.trained, run.results.trained
    if theirs.seed == ours.seed:
        raise ConfigError(f"{run.folder} has the seed of {record.folder}, {theirs.seed}; train it with another --seed.")
    recipes = [read_toml(folder / "recipe.toml") for folder in (record.folder, run.folder)]
    keys = sorted(recipes[0] | recipes[1])
    differing = [key for key in keys if key != "seed" and recipes[0].get(key) != recipes[1].get(key)]
    if differing:
        raise ConfigError(
            f"The recipes of {run.folder} and {record.folder} differ in {differing[0]!r}; "
            f"`hashzoo train {record.folder}/recipe.toml --seed {theirs.seed}` repeats a model's."
        )
    if theirs.data_copy != ours.data_copy:
        raise ConfigError(
            f"{run.folder} was trained on another copy of the data than {record.folder}: {theirs.data_copy}, not "
            f"{ours.data_copy}; train it on that one."
        )
    if not record.results.rows or record.results.rows[0].protocol != theirs.protocol:
        raise ConfigError(
            f"{record.folder} has no result under {theirs.protocol}; `hashzoo eval --update` makes it first."
        )


def write_repeat(record: Record, run: Record, row: ResultRow) -> Record:
    """Write another seed's row into a model's results.json and card.

    Args:
        record: the model's, with a result of its own.
        run: the other seed's, see `check_repeat`.
        row: of `run`, under the protocol of training; takes the place of one of the same seed.

    Raises:
        ConfigError: it is no repeat.
    """
    check_repeat(record, run)
    folder, results = record.folder, record.results
    if row.data_copy != results.rows[0].data_copy:
        raise ConfigError(
            f"{run.folder} was measured on another copy of the data than {folder}: {row.data_copy}, not "
            f"{results.rows[0].data_copy}; measure both on one."
        )
    others = [old for old in results.repeats if old.row.seed != row.seed]
    repeats = sorted([*others, Repeat(training=run.results.trained, row=row)], key=lambda repeat: repeat.row.seed)
    results = _write(folder, results.model_copy(update={"repeats": tuple(repeats)}))
    write_card(folder)
    return Record(folder, results)


def _write(folder: Path, results: Results) -> Results:
    write_text(folder / "results.json", results.as_json())
    return results
