"""The zoo as data: every result of the models that ship, as docs/results.csv, docs/zoo.md and a plot for each protocol."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashzoo.config import ModelConfig, read_json
from hashzoo.files import replacing, write_text
from hashzoo.release.plots import draw_panels
from hashzoo.zoo.results import Repeat, ResultRow, Results, TrainingFacts, spread_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = {"pr_precision", "pr_recall"}  # in the plots; too long for a line
INTRO = """\
# The zoo

The models of the zoo with their figures; [How numbers are made](numbers.md) says what the figures are. `hashzoo.load(NAME)`
loads each whose weights are here. The rows of one table were trained and measured on the same lists, and measured on the same
copy of the data by the same mAP@K; nothing else compares. [results.csv](results.csv) has all that each model's `results.json`
says, a line a result: compare lines of one `protocol`, `training_protocol` and `data_copy`. "Mean over seeds" has the standard
deviation and the number of seeds. Weights: "head" is a head stored alone, on the frozen backbone of another model that its card
names, whose features are not in its training time; "by its recipe" are not stored here: `hashzoo train` makes them anew from
the `recipe.toml` beside the card. `make index` writes this page.
"""


@dataclass(frozen=True)
class Entry:
    """A result and the model it is of.

    Attributes:
        weights_bytes: size of model.safetensors; None of a model that ships without.
        repeats: the same of other seeds.
    """

    config: ModelConfig
    training: TrainingFacts
    row: ResultRow
    weights_bytes: int | None
    repeats: tuple[Repeat, ...] = ()

    @property
    def runs(self) -> list[Repeat]:
        """This result, then the repeats."""
        return [Repeat(training=self.training, row=self.row), *self.repeats]


def read_entries(models: str | Path) -> list[Entry]:
    """Read all results of a folder of models' folders, by method, backbone and bits.

    Raises:
        ConfigError: a config.json or results.json is missing or wrong.

    >>> from hashzoo.zoo.names import shipped_folder
    >>> [entry.row.model for entry in read_entries(shipped_folder()) if entry.config.method == "itq"]
    ['itq-efficientnet_lite0-tinyimagenet-64bit']
    """
    entries = []
    for path in Path(models).glob("*/config.json"):
        config, results = read_json(ModelConfig, path), read_json(Results, path.with_name("results.json"))
        weights = path.with_name("model.safetensors")
        size = weights.stat().st_size if weights.exists() else None
        for place, row in enumerate(results.rows):
            repeats = results.repeats if place == 0 else ()
            entries.append(Entry(config, results.trained, row, size, repeats))
    return sorted(
        entries,
        key=lambda entry: (entry.config.method, entry.config.backbone.name, entry.config.bits, entry.config.name),
    )


def comparable(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Put results together that compare: trained and measured on the same lists, on one copy of the data, by one mAP@K.

    Returns:
        The protocol's name -> its results; `NAME-2` and so on where results under that protocol do not all compare.
    """
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        row = entry.row
        lists = json.dumps(row.list_sha256, sort_keys=True)
        key = (row.protocol, entry.training.protocol, row.data_copy, str(row.top_k), lists)
        groups.setdefault(key, []).append(entry)
    counts: Counter[str] = Counter()
    named: dict[str, list[Entry]] = {}
    for (protocol, *_), group in sorted(groups.items()):
        counts[protocol] += 1
        named[protocol if counts[protocol] == 1 else f"{protocol}-{counts[protocol]}"] = group
    return named


def results_csv(entries: Iterable[Entry]) -> str:
    """Write a line a result and seed; columns are the keys of results.json, those of nested objects joined by `_`."""
    lines = [
        {
            "model": entry.config.name,
            "method": entry.config.method,
            "backbone": entry.config.backbone.name,
            "license": entry.config.license,
            "weights_bytes": entry.weights_bytes,
            **_flat(run.row.model_dump(exclude=CURVES)),
            "dataset": run.row.dataset or entry.config.dataset,
            **_flat({"training": run.training.model_dump()}),
        }
        for entry in entries
        for run in entry.runs
    ]
    text = io.StringIO()
    columns = dict.fromkeys(column for line in lines for column in line)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(facts: dict[Any, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{inner}": fact for inner, fact in _flat(value).items()}
        elif isinstance(value, tuple):  # of pairs
            flat[key] = "; ".join(" ".join(pair) for pair in value)
        else:
            flat[str(key)] = value
    return flat


def page(entries: Iterable[Entry]) -> str:
    """Write docs/zoo.md: a table and a plot for results that compare."""
    return INTRO + "".join(_section(name, group) for name, group in comparable(entries).items())


def _section(name: str, entries: list[Entry]) -> str:
    row, training = entries[0].row, entries[0].training
    depth = row.top_k or "all"
    head = ["model", "bits", f"mAP@{depth}", "P@100", "P@H<=2", "seed", "mean over seeds", "training", "weights, MB"]
    lines = [head, ["---"] * len(head), *map(_cells, entries)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"""
## `{row.protocol}`

Trained under `{training.protocol}`; {row.queries:,} queries, {row.database:,} database images. mAP is the exact expectation over
ties. Data: {row.data_copy}.

{table}

![Precision over recall and P@N under {row.protocol}]({_plot_file(name)})
"""


def _cells(entry: Entry) -> list[str]:
    row, training = entry.row, entry.training
    spread = spread_of(training, row, entry.repeats)
    return [
        f"[`{row.model}`](../model_cards/{row.model}/README.md)",
        str(row.bits),
        f"{row.map:.4f}",
        f"{row.precision_at[100]:.4f}" if 100 in row.precision_at else "",
        f"{row.precision_within_2:.4f}",
        str(row.seed),
        f"{spread} ({len(spread.seeds)})" if spread else "",
        (f"{training.seconds / 60:.0f} min" if training.seconds >= 90 else f"{training.seconds:.0f} s")
        + f" on {training.device}",
        _weights(entry),
    ]


def _weights(entry: Entry) -> str:
    if entry.weights_bytes is None:
        return "by its recipe"
    size = entry.weights_bytes / 1e6
    return f"head, {size:.2f}" if entry.config.backbone_from else f"{size:.1f}"


def figure(entries: list[Entry]) -> Figure:
    """Draw results that compare, with a legend of their models."""
    drawing, _, _ = draw_panels([entry.row for entry in entries], 4.4)
    drawing.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return drawing


def plotted(entries: Iterable[Entry]) -> str:
    """The sha256 of what `figure` draws; a plot carries it, so that one of other figures is found."""
    data = [entry.row.model_dump(include={"model", "precision_at", *CURVES}) for entry in entries]
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()


def write(docs: str | Path, entries: list[Entry]) -> None:
    """Write results.csv, zoo.md and its plots into `docs`; plots of what is no longer there go."""
    docs = Path(docs)
    write_text(docs / "results.csv", results_csv(entries))
    write_text(docs / "zoo.md", page(entries))
    groups = comparable(entries)
    for old in set(docs.glob("zoo-*.svg")) - {docs / _plot_file(name) for name in groups}:
        old.unlink()
    for name, group in groups.items():
        plot(docs / _plot_file(name), group)


def plot(path: str | Path, entries: list[Entry]) -> None:
    """Write `figure` as an SVG with `plotted` in its metadata: the same bytes each time, text as text."""
    import matplotlib

    metadata = {"Date": None, "Creator": None, "Description": f"sha256 of the data: {plotted(entries)}"}
    with matplotlib.rc_context({"svg.hashsalt": "hashzoo", "svg.fonttype": "none"}), replacing(path) as partial:
        figure(entries).savefig(partial, format="svg", metadata=metadata)


def _plot_file(name: str) -> str:
    return f"zoo-{name}.svg"
