"""Training and measuring under a protocol that keeps classes out of training."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hashzoo import evaluation
from hashzoo.cli import app
from hashzoo.config import read_json
from hashzoo.data import Protocol, make_lists, protocols
from hashzoo.errors import ConfigError, DataError, WeightsError
from hashzoo.evaluation import run_protocol
from hashzoo.files import write_text
from hashzoo.pictures.decode import decode
from hashzoo.pretrained import open_model
from hashzoo.release import record
from hashzoo.release.record import read_record
from hashzoo.release.table import page, read_entries
from hashzoo.training import make_recipe, run_recipe
from hashzoo.zoo.results import Repeat, Results

SPLITS = {"dataset": "cifar10", "summary": "", "query": "split:test", "train": "split:train", "database": "split:train"}
UNSEEN = Protocol(name="tiny-unseen", unseen=3, **SPLITS)


def evaluate(folder, protocol=None, **options):
    return run_protocol(folder, read_record(folder).results, protocol, **options)


def write_results(folder, row, published):
    return record.write_results(read_record(folder), row, published)


def write_repeat(folder, run, row):
    return record.write_repeat(read_record(folder), read_record(run), row)


@pytest.fixture
def run(tmp_path, monkeypatch, tiny_pool):
    """Train dsbh on the tiny data set under a protocol; give the model's folder."""
    for protocol in (UNSEEN, Protocol(name="tiny", **SPLITS)):
        monkeypatch.setitem(protocols._protocols(), protocol.name, protocol)

    def run(protocol, seed=0, **changes):
        changes = {"optimization": {"epochs": 2, "batch_size": 20, "precision": "float32"}} | changes
        recipe = make_recipe("dsbh", bits=12, dataset="cifar10", protocol=protocol, seed=seed, changes=changes)
        return run_recipe(recipe, tmp_path / f"{protocol}-{seed}-{len(changes)}", device="cpu", pool=tiny_pool)

    return run


def test_classes_never_seen(run, tiny_pool):
    folder = run("tiny-unseen")
    assert len(json.loads((folder / "config.json").read_text())["classes"]) == 10
    row, published = evaluate(folder, pool=tiny_pool)
    assert (row.protocol, row.unseen, row.queries, row.database) == ("tiny-unseen", 3, 12, 36)
    assert row.list_sha256 == make_lists(UNSEEN, tiny_pool).sha256()
    seen = set(tiny_pool.labels[make_lists(UNSEEN, tiny_pool).train].tolist())
    for labels in published.labels.values():
        assert len(np.unique(labels)) == 3 and not seen & set(labels.tolist())
    assert evaluate(folder, "tiny", pool=tiny_pool)[0].queries == 40  # with other protocols there is nothing to hide


def test_queries_in_a_folder_of_another_name_are_told_by_their_pixels(run, tmp_path, tiny_pool, encoded, monkeypatch):
    """A folder of one's own holds three of the queries, in another encoding: training on it counts as training on them."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    lists = make_lists(Protocol(name="tiny", **SPLITS), tiny_pool)
    for split, rows in (("train", [*lists.query[:3], *lists.train[:27]]), ("test", lists.train[30:40])):
        for row in rows:
            path = tmp_path / "pictures" / split / tiny_pool.classes[tiny_pool.labels[row]] / f"{row}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(decode(tiny_pool.images[row]), "WEBP", lossless=True))
    changes = {"optimization": {"epochs": 1, "batch_size": 20, "precision": "float32"}}
    recipe = make_recipe("dsbh", bits=12, dataset=str(tmp_path / "pictures"), protocol="split", changes=changes)
    folder = run_recipe(recipe, tmp_path / "run", device="cpu")
    evaluate(folder)
    with pytest.raises(
        DataError, match="trained, on pictures under split, on 3 of the 40 queries of tiny; train it under"
    ):
        evaluate(folder, "tiny", pool=tiny_pool)

    theirs = shutil.copytree(folder, tmp_path / "theirs" / folder.name)  # without the run's own recipe beside it
    config = json.loads((theirs / "config.json").read_text()) | {"dataset": str(tmp_path / "pictures")}
    (theirs / "config.json").write_text(json.dumps(config))
    evaluate(theirs, "tiny", pool=tiny_pool)  # a stranger's file leads to no folder of this machine


def test_a_model_that_may_have_seen_the_classes_is_refused(run, tiny_pool):
    folder = run("tiny")
    message = (
        "dsbh-cnn3-cifar10-12bit was trained under tiny and may have seen the classes that tiny-unseen keeps out of "
        "training; train it under tiny-unseen."
    )
    with pytest.raises(DataError, match=f"^{message}$"):
        evaluate(folder, "tiny-unseen", pool=tiny_pool)
    row, _ = evaluate(folder, pool=tiny_pool)
    assert row.unseen == 0


def test_a_model_is_not_asked_for_what_it_was_trained_on(run, tiny_pool, monkeypatch):
    drawn = SPLITS | {"draw": "tiny-0", "query": "per-class:2", "train": "per-class:6", "database": "rest"}
    monkeypatch.setitem(protocols._protocols(), "tiny-drawn", Protocol(name="tiny-drawn", **drawn))
    folder = run("tiny")
    results = json.loads((folder / "results.json").read_text())
    lists = make_lists(protocols._protocols()["tiny-drawn"], tiny_pool)
    seen = sum(position < 120 for position in lists.query)
    assert 0 < seen < 20
    message = f"trained, on cifar10 under tiny, on {seen} of the 20 queries of tiny-drawn; train it under tiny-drawn"
    with pytest.raises(DataError, match=message):
        evaluate(folder, "tiny-drawn", pool=tiny_pool)

    # nor is one of other data that started from it
    for name, changes in (
        ("config.json", {"dataset": "elsewhere"}),
        ("results.json", {"training": results["training"] | {"protocol": "split", "seen": [["cifar10", "tiny"]]}}),
    ):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError, match=message):
        evaluate(folder, "tiny-drawn", pool=tiny_pool)


def test_a_row_names_the_data_measured_on(run, tiny_pool):
    folder = run("tiny")
    for dataset in ("cifar10", "elsewhere"):  # that the model was trained on
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": dataset}))
        write_results(folder, *evaluate(folder, pool=tiny_pool))
        assert "\n| 12 | cifar10 | `tiny` |" in (folder / "README.md").read_text()


def test_seeds_of_a_model(run, tiny_pool):
    folders = [run("tiny", seed) for seed in range(3)]
    rows = [evaluate(folder, pool=tiny_pool)[0] for folder in folders]
    with pytest.raises(ConfigError, match=r"has no result under tiny; `hashzoo eval --update` makes it first"):
        write_repeat(folders[0], folders[1], rows[1])
    write_results(folders[0], *evaluate(folders[0], pool=tiny_pool))
    assert read_json(Results, folders[0] / "results.json").spread() is None
    assert "One seed: the spread over seeds is not known." in (folders[0] / "README.md").read_text()
    for seed in (2, 1, 1):  # in any order, and twice
        write_repeat(folders[0], folders[seed], rows[seed])
    results = read_json(Results, folders[0] / "results.json")
    assert (
        [repeat.row.seed for repeat in results.repeats]
        == [repeat.training.seed for repeat in results.repeats]
        == [1, 2]
    )
    assert [row.map for row in (*results.rows, *(repeat.row for repeat in results.repeats))] == [
        row.map for row in rows
    ]
    spread, maps = results.spread(), [row.map for row in rows]
    assert spread.seeds == (0, 1, 2) and np.ptp(maps) > 0
    assert (spread.mean, spread.deviation) == pytest.approx((np.mean(maps), np.std(maps, ddof=1)))
    card = (folders[0] / "README.md").read_text()
    assert f"Over seeds 0, 1, 2: mAP@all {np.mean(maps):.4f} ± {np.std(maps, ddof=1):.4f} (mean" in card
    write_results(folders[0], *evaluate(folders[0], pool=tiny_pool))  # measured again, the repeats stay
    assert read_json(Results, folders[0] / "results.json").spread() == spread

    # figures on another copy of the data are no repeats of these
    other = rows[1].model_copy(update={"data_copy": "lossless"})
    with pytest.raises(
        ConfigError, match=r"was measured on another copy of the data than .*: lossless, not copy not known"
    ):
        write_repeat(folders[0], folders[1], other)
    write_results(folders[0], *evaluate(folders[0], pool=dataclasses.replace(tiny_pool, images=tiny_pool.images[::-1])))
    changed = read_json(Results, folders[0] / "results.json")
    assert (changed.spread(), changed.repeats) == (None, ())
    # nor are those of a file that kept them, on the card and in the table
    older = [repeat.training.model_copy(update={"epochs": 7}) for repeat in results.repeats]
    runs = [Repeat(training=facts, row=repeat.row) for facts, repeat in zip(older, results.repeats, strict=True)]
    for repeats, row in ((runs, results.rows[0]), (results.repeats, changed.rows[0])):
        mixed = results.model_copy(update={"rows": (row,), "repeats": tuple(repeats)})
        write_text(folders[0] / "results.json", mixed.model_dump_json())
        assert mixed.spread() is None
        (line,) = [line for line in page(read_entries(folders[0].parent)).splitlines() if f"[`{row.model}`]" in line]
        assert "±" not in line
    facts = json.loads((folders[2] / "results.json").read_text())
    facts["training"]["data_copy"] = "lossless"
    (folders[2] / "results.json").write_text(json.dumps(facts))
    with pytest.raises(
        ConfigError, match=r"was trained on another copy of the data than .*: lossless, not copy not known"
    ):
        write_repeat(folders[0], folders[2], rows[2])


def test_a_repeat_differs_in_its_seed_alone(run, tiny_pool, monkeypatch):
    folder, other = run("tiny"), run("tiny", 1, loss={"args": {"balance_weight": 0.5}})
    write_results(folder, *evaluate(folder, pool=tiny_pool))
    before = (folder / "results.json").read_bytes()
    row, _ = evaluate(other, pool=tiny_pool)
    with pytest.raises(
        ConfigError, match=r"differ in 'loss'; `hashzoo train .*recipe\.toml --seed 1` repeats a model's"
    ):
        write_repeat(folder, other, row)
    with pytest.raises(ConfigError, match=r"has the seed of .*, 0; train it with another --seed\."):
        write_repeat(folder, folder, row)
    monkeypatch.setattr("hashzoo.evaluation.run_protocol", None)  # refused before anything is measured
    done = CliRunner().invoke(app, ["eval", f"local-dir:{other}", "--repeat-of", f"local-dir:{folder}"])
    assert isinstance(done.exception, ConfigError) and "differ in 'loss'" in str(done.exception)
    assert (folder / "results.json").read_bytes() == before


def test_evaluate_takes_a_model_its_folder_or_its_name(run, tiny_pool, monkeypatch):
    folder = run("tiny")
    wanted = evaluate(folder, pool=tiny_pool)[0].model_dump(exclude={"seconds", "images_per_s"})
    model = open_model(folder)
    monkeypatch.setenv("HASHZOO_PATH", str(folder.parent))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for it in (model, folder, f"local-dir:{folder}", folder.name):
        row = evaluation.evaluate(it, pool=tiny_pool, device="cpu")
        assert row.model_dump(exclude={"seconds", "images_per_s"}) == wanted
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before  # values out, no file written
    with torch.no_grad():
        model.head.linear.bias += 1
    with pytest.raises(
        WeightsError, match=r"head\.linear\.bias of .* is no longer that of .*; save the model to a folder"
    ):
        evaluation.evaluate(model, pool=tiny_pool)


def test_figures_are_rounded_once_and_compared_field_by_field(run, tiny_pool):
    folder = run("tiny")
    write_results(folder, *evaluate(folder, pool=tiny_pool))
    figures, results = evaluation.figures_from_codes(folder), read_record(folder).results
    assert evaluation.find_mismatches(figures, results) == []
    assert type(figures).model_validate(dict(figures) | {"map": 1 / 3}).map == 0.333333
    assert figures.health.mean_bias == round(figures.health.mean_bias, 6) and type(figures.health.dead_bits) is int
    written = json.loads((folder / "results.json").read_text())
    written["rows"][0]["health"]["worst"] = 1.0
    (folder / "results.json").write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=r"results\.json: 'rows\.0\.health\..*worst' is wrong"):
        read_record(folder)
    health = dataclasses.replace(figures.health, entropy_bits=0.5)
    other = figures.model_copy(update={"health": health, "precision_at": {1: 0.0}, "pr_recall": (None,) * 13})
    assert evaluation.find_mismatches(other, results) == ["precision_at", "pr_recall", "health"]
    assert "map" in evaluation.find_mismatches(figures, results.model_copy(update={"rows": ()}))
