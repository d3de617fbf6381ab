"""docs/zoo.md, docs/results.csv and the plots are those of model_cards/, and put no two figures together that do not compare."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hashzoo.release.table import comparable, figure, page, plot, plotted, read_entries, results_csv, write
from hashzoo.zoo.names import shipped_folder

DOCS = Path(__file__).parents[2] / "docs"
ENTRIES = read_entries(shipped_folder())
RAW = {path.parent.name: json.loads(path.read_text()) for path in shipped_folder().glob("*/results.json")}


def changed(entry, training=(), **row):
    """The entry with other facts."""
    return type(entry)(
        entry.config, entry.training.model_copy(update=dict(training)), entry.row.model_copy(update=row), 2_000_000
    )


def test_what_is_committed_is_what_the_cards_say():
    assert (DOCS / "zoo.md").read_text(encoding="utf-8") == page(ENTRIES), "run `make index`"
    assert (DOCS / "results.csv").read_text(encoding="utf-8") == results_csv(ENTRIES), "run `make index`"
    groups = comparable(ENTRIES)
    assert {path.name for path in DOCS.glob("zoo-*.svg")} == {f"zoo-{name}.svg" for name in groups}, "run `make index`"
    for name, group in groups.items():
        assert plotted(group) in (DOCS / f"zoo-{name}.svg").read_text(encoding="utf-8"), "run `make index`"


def test_the_csv_has_every_figure_of_every_result():
    lines = list(csv.DictReader(io.StringIO(results_csv(ENTRIES))))
    assert len(lines) == sum(len(results["rows"]) + len(results.get("repeats", ())) for results in RAW.values())

    def compare(line, prefix, facts):
        for key, value in facts.items():
            if isinstance(value, dict):
                compare(line, f"{prefix}{key}_", value)
            elif isinstance(value, list) and not key.startswith("pr_"):
                assert line[prefix + key] == "; ".join(" ".join(pair) for pair in value), prefix + key
            elif not key.startswith("pr_"):
                assert line[prefix + key] == ("" if value is None else str(value)), prefix + key

    for line in lines:
        results = RAW[line["model"]]
        runs = [(row, results["training"]) for row in results["rows"]]
        runs += [(repeat["row"], repeat["training"]) for repeat in results.get("repeats", ())]
        ((row, training),) = [
            (row, training)
            for row, training in runs
            if [row["protocol"], str(row["seed"])] == [line["protocol"], line["seed"]]
        ]
        config = json.loads((shipped_folder() / line["model"] / "config.json").read_text())
        compare(line, "", row | {"dataset": row.get("dataset") or config["dataset"]})
        compare(line, "training_", training)
        assert [line[key] for key in ("method", "license")] == [config[key] for key in ("method", "license")]
        assert line["backbone"] == config["backbone"]["name"]


def test_every_model_is_on_the_page_with_its_figures():
    lines = page(ENTRIES).splitlines()
    for name, results in RAW.items():
        seconds = results["training"]["seconds"]
        time = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
        training = f"{time} on {results['training']['device']}"
        of_model = [line for line in lines if f"[`{name}`]" in line]
        assert len(of_model) == len(results["rows"])
        for row in results["rows"]:
            depth = [value for n, value in row["precision_at"].items() if n == "100"]
            known = [f"{value:.4f}" for value in (row["map"], *depth, row["precision_within_2"])]
            figures = [row["bits"], *known, row["seed"], training]
            if results.get("repeats") and row is results["rows"][0]:
                maps = [row["map"], *(repeat["row"]["map"] for repeat in results["repeats"])]
                figures.append(f"{np.mean(maps):.4f} ± {np.std(maps, ddof=1):.4f} ({len(maps)})")
            assert any(all(f" {figure} |" in line for figure in figures) for line in of_model)
        (card,) = {line.partition("](")[2].partition(")")[0] for line in of_model}
        assert (DOCS / card).is_file()


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": "cifar10-59k"},
        {"data_copy": "another copy (sha256 0)"},
        {"top_k": 1000},
        {"list_sha256": dict.fromkeys(("query", "train", "database"), "0" * 64)},
        {"training": {"protocol": "cifar10-54k"}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_does_not_compare_shares_no_column(other):
    (one,) = [entry for entry in ENTRIES if entry.row.model == "dahp-resnet18-cifar10-48bit"]
    entries = [one, changed(one, **other), changed(one, map=0.25)]
    groups = comparable(entries).values()
    assert sorted(map(len, groups)) == [1, 2]
    assert [entries[0], entries[2]] in groups
    assert page(entries).count("\n| model |") == page(entries).count("\n## ") == 2
    assert "mAP@1000" in page(entries) or "top_k" not in other


def test_a_figure_that_is_not_known_is_left_out():
    whole = next(entry for entry in ENTRIES if entry.config.backbone_from is None)
    bare = changed(whole, precision_at={1: 0.5}, images_per_s=None, training={"seconds": 61.0, "device": "H"})
    (line,) = [line for line in page([bare]).splitlines() if bare.row.model in line]
    assert line.split(" | ")[3:4] + line.split(" | ")[6:] == ["", "", "61 s on H", "2.0 |"]
    head = next(entry for entry in ENTRIES if entry.config.backbone_from)
    for entry, cell in ((changed(head), "head, 2.00"), (replace(whole, weights_bytes=None), "by its recipe")):
        assert f"| {cell} |" in page([entry])
    (row,) = csv.DictReader(io.StringIO(results_csv([bare])))
    assert (row["precision_at_1"], row["images_per_s"], row["training_seconds"]) == ("0.5", "", "61.0")
    assert "precision_at_100" not in row
    both = list(csv.DictReader(io.StringIO(results_csv([bare, whole]))))
    assert [row["precision_at_100"] for row in both] == ["", str(whole.row.precision_at[100])]


def test_the_plots_draw_the_results():
    left, right = figure(ENTRIES).axes
    for entry, curve, depths in zip(ENTRIES, left.lines, right.lines, strict=True):
        (row,) = [row for row in RAW[entry.row.model]["rows"] if row["protocol"] == entry.row.protocol]
        points = [point for point in zip(row["pr_recall"], row["pr_precision"], strict=True) if None not in point]
        assert list(zip(*curve.get_data(), strict=True)) == points
        assert list(zip(*depths.get_data(), strict=True)) == [(int(n), p) for n, p in row["precision_at"].items()]
        assert curve.get_label() == entry.row.model and curve.get_color() == depths.get_color()
    assert plotted(ENTRIES) != plotted([changed(ENTRIES[0], precision_at={1: 0.5}), *ENTRIES[1:]])


def test_writing_again_changes_nothing_and_old_plots_go(tmp_path):
    (tmp_path / "zoo-gone.svg").touch()
    write(tmp_path, ENTRIES)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(files) == {"zoo.md", "results.csv", *(f"zoo-{name}.svg" for name in comparable(ENTRIES))}
    write(tmp_path, ENTRIES)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    plot(tmp_path / "again.svg", ENTRIES[:1])
    assert b"<text" in (tmp_path / "again.svg").read_bytes()
