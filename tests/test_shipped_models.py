"""What ships agrees with itself: card, results, codes, index and README."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hashzoo.cli import app
from hashzoo.zoo import list_models
from hashzoo.zoo.card import END, render_card
from hashzoo.zoo.index import INDEX, describe, shipped_folder
from hashzoo.zoo.verify import verify

ROOT = Path(__file__).parent.parent
FOLDERS = sorted(path.parent for path in shipped_folder().glob("*/config.json"))
each_model = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def read(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_the_index_is_the_folders() -> None:
    listed = {entry["name"]: entry for entry in json.loads(INDEX.read_text())["models"]}
    for folder in FOLDERS:
        entry = json.loads(json.dumps(describe(folder, hashes=True)))
        assert {key: listed[folder.name][key] for key in entry} == entry, "run `make index`"


@each_model
def test_files(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md", "config.json", "model.safetensors", "results.json", "recipe.toml", "probe.json", "codes.parquet",
        "pr-curve.png",
    }  # fmt: skip
    assert (folder / "model.safetensors").stat().st_size <= 25 * 2**20
    assert json.loads((folder / "config.json").read_text())["name"] == folder.name


@each_model
def test_verify(folder: Path) -> None:
    assert verify(folder.name) == []


@each_model
def test_the_card_is_generated(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert render_card(folder, card) == card
    assert render_card(folder, card.partition(END)[0] + END + "\n\nMy own words.\n").endswith("\nMy own words.\n")


@each_model
def test_figures_follow_from_the_codes(folder: Path) -> None:
    """`hashzoo eval NAME --from-codes` gives all of the row but what codes cannot say."""
    row = read(folder)["rows"][0]
    done = CliRunner().invoke(app, ["eval", folder.name, "--from-codes", "--json"])
    assert done.exit_code == 0, done.output
    again = json.loads(done.stdout)
    assert again == {key: row[key] for key in again}
    assert set(row) - set(again) == {
        "list_sha256", "ties", "seed", "data_copy", "weights_sha256", "device", "precision", "seconds", "images_per_s", "commit",
    }  # fmt: skip


@each_model
def test_map_by_an_independent_implementation(folder: Path) -> None:
    """mAP of every 50th query from the raw Parquet file, by the textbook formula with ties in random order, in loops."""
    table = pq.read_table(folder / "codes.parquet").to_pydict()
    split, label = np.array(table["split"]), np.array(table["label"])
    bits = np.unpackbits(np.frombuffer(b"".join(table["code"]), np.uint8).reshape(len(split), -1), axis=1).astype(
        np.int16
    )
    database, database_label = bits[split == "database"], label[split == "database"]
    queries, query_label = bits[split == "query"][::50], label[split == "query"][::50]
    expected = []
    for query, wanted in zip(queries, query_label, strict=True):
        distance = np.abs(database - query).sum(1)
        relevant = database_label == wanted
        total, seen, found = 0.0, 0, 0
        for level in np.unique(distance):
            n, r = int((distance == level).sum()), int((relevant & (distance == level)).sum())
            for i in range(1, n + 1):
                before = (i - 1) * (r - 1) / (n - 1) if n > 1 else 0
                total += r / n * (found + before + 1) / (seen + i)
            seen, found = seen + n, found + r
        expected.append(total / relevant.sum())
    from hashzoo.metrics import average_precision, distance_histograms
    from hashzoo.zoo.published_codes import read_codes

    published = read_codes(folder / "codes.parquet")
    histograms = distance_histograms(
        published.codes["query"][::50], published.codes["database"], published.labels["query"][::50],
        published.labels["database"],
    )  # fmt: skip
    np.testing.assert_allclose(average_precision(histograms), expected, rtol=1e-9)


@each_model
def test_results_say_what_they_rest_on(folder: Path) -> None:
    results = read(folder)
    assert len(results["training"]["commit"]) == 40
    assert results["training"]["data_license"] == "unknown (so says its Hub card)"
    for row in results["rows"]:
        assert row["ties"] == "expected" and row["data_copy"] and row["device"]
        assert len(row["commit"]) == 40
        assert row["health"]["dead_bits"] == 0


def test_the_readme_has_every_model_with_its_figure() -> None:
    readme = (ROOT / "README.md").read_text()
    for info in list_models():
        assert f"`{info.name}`" in readme
        assert f"| {info.map:.4f} |" in readme, info.name
