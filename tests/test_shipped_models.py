"""What ships agrees with itself: card, results, codes, catalogue and README."""

import json
import math
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from hashzoo import load
from hashzoo.cli import app
from hashzoo.config import read_json
from hashzoo.errors import WeightsError
from hashzoo.release.card import END, render_card
from hashzoo.zoo.names import describe, list_models, read_catalog, shipped_folder
from hashzoo.zoo.results import Results
from hashzoo.zoo.verify import verify

ROOT = Path(__file__).parent.parent
DATASETS = ROOT / "hashzoo" / "data" / "datasets.toml"
FOLDERS = sorted(path.parent for path in shipped_folder().glob("*/config.json"))
each_model = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def read(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_the_catalogue_is_the_folders() -> None:
    listed = {entry["name"]: entry for entry in read_catalog(shipped_folder())}
    for folder in FOLDERS:
        entry = json.loads(json.dumps(describe(folder, hashes=True)))
        assert {key: listed[folder.name][key] for key in entry} == entry, "run `make index`"


@each_model
def test_files(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names | {"model.safetensors"} == {
        "README.md", "config.json", "model.safetensors", "results.json", "recipe.toml", "probe.json", "codes.parquet",
        "pr-curve.png",
    }  # fmt: skip
    assert all(path.stat().st_size <= 25 * 2**20 for path in folder.iterdir())
    assert json.loads((folder / "config.json").read_text())["name"] == folder.name


@each_model
def test_verify(folder: Path) -> None:
    if (folder / "model.safetensors").exists():
        assert verify(folder.name) == []
    else:  # how it is made is said where it is missed
        with pytest.raises(
            WeightsError, match=rf"or train it anew with `hashzoo train .*{folder.name}/recipe\.toml --out"
        ):
            load(folder.name)
        assert "The weights are not stored with hashzoo" in (folder / "README.md").read_text()


def test_a_model_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed as such, measured from its codes, refused where weights are needed; its card loads no shipped name."""
    folder = tmp_path / "dsbh-bare"
    shutil.copytree(shipped_folder() / "dsbh-cnn3-cifar10-48bit", folder)
    (folder / "model.safetensors").unlink()
    config = (folder / "config.json").read_text().replace("dsbh-cnn3-cifar10-48bit", folder.name)
    (folder / "config.json").write_text(config)
    monkeypatch.setenv("HASHZOO_PATH", str(tmp_path))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    (line,) = [line for line in run("list").stdout.splitlines() if folder.name in line]
    assert line.rstrip().endswith("0.4, no weights")
    assert run("eval", folder.name, "--from-codes", "--json").exit_code == 0
    done = run("verify", folder.name)
    assert done.exit_code == 1 and f"train it anew with `hashzoo train {folder}/recipe.toml --out runs/" in done.stdout
    (bare,) = [info for info in list_models("dsbh-*") if not info.weights]
    assert bare.name == folder.name and folder.name not in run("verify").stdout
    card = render_card(folder)
    assert "The weights are not stored with hashzoo" in card
    assert f'hashzoo.load("local-dir:runs/{folder.name}/{folder.name}")' in card


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
    assert row["weights_sha256"] == json.loads((folder / "config.json").read_text())["weights_sha256"]
    assert set(row) - set(again) - {"unseen", "map_float_cosine", "dataset"} == {
        "list_sha256", "ties", "seed", "data_copy", "weights_sha256", "device", "precision", "seconds", "images_per_s", "commit",
    }  # fmt: skip


def precisions(taken: int, hits: int, seen: int, found: int) -> float:
    """Sum of the precisions at the `hits` relevant ones of `taken` items in random order, ranked below `seen` with `found`."""
    before = np.arange(taken) * ((hits - 1) / (taken - 1) if taken > 1 else 0)
    return float((hits / taken * (found + before + 1) / (seen + np.arange(1, taken + 1))).sum())


def textbook_ap(distance: np.ndarray, relevant: np.ndarray, limit: int) -> float:
    """AP in the top `limit` with ties in random order: the mean precision at the relevant items that are found there."""
    total, seen, found = 0.0, 0, 0
    for level in np.unique(distance):
        n, r = int((distance == level).sum()), int((relevant & (distance == level)).sum())
        left = limit - seen
        if n > left:  # the number of relevant items among those that make the cut is hypergeometric
            possible = range(max(0, left - (n - r)), min(r, left) + 1)
            logs = [log_choose(r, j) + log_choose(n - r, left - j) for j in possible]
            chances = np.exp(np.array(logs) - max(logs))
            means = [
                (total + precisions(left, j, seen, found)) / max(found + j, 1) if left else total / max(found, 1)
                for j in possible
            ]
            return float(chances @ means / chances.sum())
        total += precisions(n, r, seen, found)
        seen, found = seen + n, found + r
    return total / max(found, 1)


def log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


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
    from hashzoo.metrics import average_precision, distance_histograms
    from hashzoo.zoo.published_codes import read_codes

    published = read_codes(folder / "codes.parquet")
    histograms = distance_histograms(
        published.codes["query"][::50], published.codes["database"], published.labels["query"][::50],
        published.labels["database"],
    )  # fmt: skip
    depths = {read(folder)["rows"][0]["top_k"], 1000}
    expected: dict[int | None, list[float]] = {depth: [] for depth in depths}
    for query, wanted in zip(queries, query_label, strict=True):
        distance = np.abs(database - query).sum(1)
        for depth in depths:
            expected[depth].append(textbook_ap(distance, database_label == wanted, depth or len(database)))
    for depth in depths:
        np.testing.assert_allclose(average_precision(histograms, depth), expected[depth], rtol=1e-9)


@each_model
def test_results_say_what_they_rest_on(folder: Path) -> None:
    results = read(folder)
    training = results["training"]
    dataset = json.loads((folder / "config.json").read_text())["dataset"]
    recipe = tomllib.loads((folder / "recipe.toml").read_text())
    assert len(training["commit"]) == 40
    assert training["data_license"] == tomllib.loads(DATASETS.read_text())[dataset]["license"]
    pretrained, start = recipe["optimization"]["pretrained"], training["init"]
    assert training["base_model"] or not pretrained or ".safetensors" in start  # of the Hub, or a file of one's own
    repeats = results.get("repeats", ())
    assert len({training["seed"], *(run["training"]["seed"] for run in repeats)}) == 1 + len(repeats)
    for run in repeats:
        assert len(run["training"]["commit"]) == 40
        for fact in ("list_sha256", "protocol", "top_k", "data_copy", "bits", "model"):
            assert run["row"][fact] == results["rows"][0][fact]
        assert run["row"]["seed"] == run["training"]["seed"]
    for row in [*results["rows"], *(run["row"] for run in repeats)]:
        assert row["ties"] == "expected" and row["data_copy"] and row["device"]
        assert (row["images_per_s"] is None) == training.get("frozen", False)
        assert len(row["commit"]) == 40
        assert row["health"]["dead_bits"] == 0


def readme_cells() -> dict[str, dict[str, str]]:
    """The README's tables of models: name -> heading -> cell, a name with NNbit in it standing for one of each `NN bits`."""
    cells: dict[str, dict[str, str]] = {}
    header: list[str] = []
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not row or not header:
            header = row
        elif match := re.fullmatch(r"`(.+)`", row[0]):
            facts = dict(zip(header, row, strict=True))
            cells[match[1]] = facts
            for heading, cell in facts.items():
                if length := re.fullmatch(r"(\d+) bits", heading):
                    cells[match[1].replace("-NNbit", f"-{length[1]}bit")] = facts | {"mAP@all": cell}
    return cells


def test_the_readme_has_every_model_with_its_figures() -> None:
    cells = readme_cells()
    for info in list_models():
        results, mine = read_json(Results, info.folder / "results.json"), cells[info.name]
        row = results.rows[0]
        assert mine[f"mAP@{row.top_k or 'all'}"] == f"{row.map:.4f}", info.name
        assert mine.get("bits", str(info.bits)) == str(info.bits)
        for heading, value in (("P@100", row.precision_at[100]), ("P@H<=2", row.precision_within_2)):
            assert heading not in mine or mine[heading] == f"{value:.4f}", (info.name, heading)
        if spread := results.spread():
            assert mine["over seeds"] == str(spread), info.name
