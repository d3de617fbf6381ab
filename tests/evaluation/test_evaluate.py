"""Training and measuring under a protocol that keeps classes out of training."""

import json

import numpy as np
import pytest

from hashzoo.data import Protocol, make_lists, protocols
from hashzoo.errors import DataError
from hashzoo.evaluation import evaluate
from hashzoo.training import make_recipe, train

SPLITS = {"dataset": "cifar10", "summary": "", "query": "split:test", "train": "split:train", "database": "split:train"}
UNSEEN = Protocol(name="tiny-unseen", unseen=3, **SPLITS)


@pytest.fixture
def run(tmp_path, monkeypatch, tiny_pool):
    """Train dsbh on the tiny data set under a protocol; give the model's folder."""
    for protocol in (UNSEEN, Protocol(name="tiny", **SPLITS)):
        monkeypatch.setitem(protocols._protocols(), protocol.name, protocol)

    def run(protocol):
        changes = {"optimization": {"epochs": 2, "batch_size": 20, "precision": "float32"}}
        recipe = make_recipe("dsbh", bits=12, dataset="cifar10", protocol=protocol, changes=changes)
        return train(recipe, tmp_path / protocol, device="cpu", pool=tiny_pool)

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
    lists = make_lists(protocols._protocols()["tiny-drawn"], tiny_pool)
    seen = sum(position < 120 for position in lists.query)
    assert 0 < seen < 20
    message = f"trained, under tiny, on {seen} of the 20 queries of tiny-drawn; train it under tiny-drawn"
    with pytest.raises(DataError, match=message):
        evaluate(folder, "tiny-drawn", pool=tiny_pool)
