import dataclasses
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hashzoo.config import PreprocessConfig
from hashzoo.data import ImagePool, Protocol, dataset_names, get_protocol, make_lists, open_pool, protocol_names
from hashzoo.data import datasets as data_sets
from hashzoo.data.datasets import default_protocol
from hashzoo.errors import CodesError, DataError, UnknownNameError
from hashzoo.pictures.decode import decode
from hashzoo.pictures.fit import prepare
from hashzoo.preprocess import Preprocess


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """Hugging Face datasets, with its cache in a folder of this test, and no data at hand."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("HASHZOO_DATA", raising=False)
    return datasets


@pytest.fixture
def write_split(tmp_path, datasets, tiny_pool):
    """Write a split as Parquet, laid out as the Hub's copy of cifar10."""

    def write(split, images=None, labels=None, folder="cifar10/plain_text", image="img", label="label", kind=None):
        first, last = tiny_pool.bounds["train" if split == "train" else "test"]
        columns = {
            image: images or [{"bytes": data, "path": None} for data in tiny_pool.images[first:last]],
            label: tiny_pool.labels[first:last].tolist() if labels is None else labels,
        }
        if kind is None:
            kind = datasets.ClassLabel(names=list(tiny_pool.classes))
        path = tmp_path / "data" / folder / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        features = datasets.Features({image: datasets.Image(), label: kind})
        datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
        return tmp_path / "data"

    return write


# Pools


def test_a_named_data_set_under_hashzoo_data(tmp_path, monkeypatch, write_split, tiny_pool):
    write_split("train")
    monkeypatch.setenv("HASHZOO_DATA", str(write_split("test")))
    pool = open_pool("cifar10")
    assert pool.images == tiny_pool.images  # still encoded, train before test
    np.testing.assert_array_equal(pool.labels, tiny_pool.labels)
    assert (pool.labels.dtype, pool.name, pool.side, len(pool)) == (np.int64, "cifar10", 32, 160)
    assert (pool.classes, pool.bounds) == (tiny_pool.classes, {"train": (0, 120), "test": (120, 160)})
    assert pool.copy == tiny_pool.copy
    assert pool.copy.startswith("copy not known to hashzoo (sha256 ")
    assert pool.license == "unknown (so says its Hub card)"


def test_the_first_folder_of_several_that_has_the_data_set_counts(tmp_path, monkeypatch, write_split, tiny_pool):
    write_split("train")
    roots = [tmp_path / "none", write_split("test"), tmp_path / "other"]
    (tmp_path / "other" / "cifar10").mkdir(parents=True)  # would be no data set
    monkeypatch.setenv("HASHZOO_DATA", os.pathsep.join(map(str, roots)))
    assert open_pool("cifar10").images == tiny_pool.images


def test_official_images_are_told_by_their_pixels(tiny_pool, encoded, monkeypatch):
    """Whatever their encoding; a file met before is not decoded."""
    official = "The official images"
    pixels = np.concatenate([decode(image).reshape(-1) for image in tiny_pool.images])
    key = hashlib.sha256(pixels.tobytes()).hexdigest()
    spec = data_sets._specs()["cifar10"].model_copy(update={"pixels": {key: official}})
    monkeypatch.setitem(data_sets._specs(), "cifar10", spec)
    webp = [encoded(decode(image), "WEBP", lossless=True) for image in tiny_pool.images]
    again = dataclasses.replace(tiny_pool, images=webp)
    plain = dataclasses.replace(tiny_pool)
    assert again.images != plain.images
    assert again.copy == plain.copy == f"{official} (sha256 of all pixels {key[:16]})"

    changed = [*webp[:-1], encoded(255 - decode(webp[-1]), "WEBP", lossless=True)]
    assert dataclasses.replace(tiny_pool, images=changed).copy.startswith("copy not known to hashzoo")

    met = hashlib.sha256(b"".join(webp)).hexdigest()
    monkeypatch.setitem(data_sets._specs(), "cifar10", spec.model_copy(update={"encodings": {met: key}}))
    monkeypatch.setattr(ImagePool, "_pixels_sha256", None)
    assert dataclasses.replace(tiny_pool, images=webp).copy == again.copy


def test_a_draw_from_one_split(tiny_pool):
    rule = {
        "name": "t",
        "dataset": "cifar10",
        "summary": "",
        "draw": "x",
        "query": "split:test",
        "database": "split:train",
    }
    train = make_lists(Protocol(**rule, train="per-class:3@train"), tiny_pool).train
    assert np.bincount(tiny_pool.labels[train]).tolist() == [3] * 10
    assert train.max() < 120
    with pytest.raises(DataError, match="draws 13 images a class, but class airplane of cifar10 has 12 left"):
        make_lists(Protocol(**rule, train="per-class:13@train"), tiny_pool)


def test_listed_unseen_classes(tiny_pool):
    rule = {"name": "t", "dataset": "cifar10", "summary": "", "query": "split:test", "train": "split:train"}
    lists = make_lists(Protocol(**rule, database="split:train", unseen=2, unseen_classes=(3, 7)), tiny_pool)
    assert set(tiny_pool.labels[lists.query]) == set(tiny_pool.labels[lists.database]) == {3, 7}
    assert set(tiny_pool.labels[lists.train]) == set(range(10)) - {3, 7}


def test_the_copy_is_told_by_its_bytes(tiny_pool):
    changed = [*tiny_pool.images[:-1], tiny_pool.images[-1] + b"\0"]
    other = ImagePool("cifar10", changed, tiny_pool.labels, tiny_pool.classes, tiny_pool.bounds, 32)
    assert other.copy != tiny_pool.copy


def test_decode(tiny_pool, photo, encoded):
    positions = np.array([159, 0, 7])
    expected = torch.stack(
        [torch.from_numpy(decode(tiny_pool.images[position])).permute(2, 0, 1) for position in positions]
    )
    config = PreprocessConfig(size=(56, 56))
    assert torch.equal(tiny_pool.decode(positions, config), expected)
    assert tiny_pool.decode(positions[:0], config).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_pictures_of_any_size(photo, encoded, fit):
    shapes, config = [(40, 70), (300, 90)], PreprocessConfig(size=(56, 56), fit=fit)
    images = [encoded(photo(*shape)) for shape in shapes]
    pool = ImagePool("odd", images, np.zeros(2, np.int64), ("cat",), {"train": (0, 2)}, None)
    preprocess = Preprocess(config)
    fitted = pool.fitted(np.array([1, 0]), preprocess)  # as `encode` does
    assert torch.equal(fitted, torch.stack([preprocess.fitted(image) for image in images[::-1]]))
    for kind, near in ((fit, True), ("crop" if fit == "squash" else "squash", False)):
        decoded = pool.decode(np.array([1, 0]), config.model_copy(update={"fit": kind}))
        assert decoded.shape == (2, 3, 64, 64)  # room for windows
        again = np.stack([prepare(image.permute(1, 2, 0).numpy(), config) for image in decoded]).astype(int)
        apart = np.abs(again.transpose(0, 3, 1, 2) - fitted.numpy()).mean((1, 2, 3))
        # Of the same part of the picture, or of another.
        assert (apart < 12).all() if near else (apart > 30).all()


def test_more_pictures_than_memory(tiny_pool, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2**26))
    pool = dataclasses.replace(tiny_pool, side=None)
    with pytest.raises(
        CodesError, match=r"Decoding 160 images to 585x585 pixels takes 0.2 GiB of memory, .* train on fewer"
    ):
        pool.decode(np.arange(160), PreprocessConfig(size=(512, 512)))


def test_a_folder_of_parquet_files(tmp_path, write_split, tiny_pool):
    for split in ("train", "test"):
        root = write_split(split, folder="mine", image="image")
    pool = open_pool(str(root / "mine"))
    assert (pool.images, pool.name) == (tiny_pool.images, "mine")  # never the way there
    assert (pool.side, pool.classes, pool.bounds["test"]) == (None, tiny_pool.classes, (120, 160))
    assert pool.license is None


def test_labels_that_are_words(datasets, write_split, tiny_pool):
    words = [f"class {label}" for label in tiny_pool.labels]
    write_split("train", folder="words", image="image", labels=words[:120], kind=datasets.Value("string"))
    root = write_split("test", folder="words", image="image", labels=words[120:], kind=datasets.Value("string"))
    pool = open_pool(str(root / "words"))
    assert pool.classes == tuple(f"class {label}" for label in range(10))
    np.testing.assert_array_equal(pool.labels, tiny_pool.labels)


def test_a_protocol_of_other_splits(tiny_pool):
    pool = dataclasses.replace(tiny_pool, bounds={"train": (0, 120), "valid": (120, 160)})
    with pytest.raises(DataError, match=r"^Protocol split needs a split 'test', and cifar10 has train, valid; take"):
        make_lists(get_protocol("split"), pool)


def test_labels_that_are_lists(datasets, write_split, tiny_pool):
    many = [[int(label), (int(label) + 3) % 10] if row % 2 else [] for row, label in enumerate(tiny_pool.labels)]
    kind = datasets.Sequence(datasets.ClassLabel(names=list(tiny_pool.classes)))
    write_split("train", folder="many", image="image", labels=many[:120], kind=kind)
    root = write_split("test", folder="many", image="image", labels=many[120:], kind=kind)
    pool = open_pool(str(root / "many"))
    assert (pool.labels.shape, pool.labels.dtype, pool.classes) == ((160, 10), bool, tiny_pool.classes)
    assert [np.flatnonzero(row).tolist() for row in pool.labels] == [sorted(set(row)) for row in many]


def test_labels_without_names(datasets, write_split, tiny_pool):
    write_split("train", folder="plain", image="image", kind=datasets.Value("int64"))
    root = write_split("test", folder="plain", image="image", kind=datasets.Value("int64"))
    pool = open_pool(str(root / "plain"))
    assert pool.classes == tuple("0123456789")
    np.testing.assert_array_equal(pool.labels, tiny_pool.labels)


def test_an_image_folder(tmp_path, datasets, tiny_pool):
    expected = {}
    for position in range(0, 160, 8):
        split = "train" if position < 120 else "test"
        label = int(tiny_pool.labels[position])
        path = tmp_path / "photos" / split / tiny_pool.classes[label] / f"{position}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny_pool.images[position])
        expected[tiny_pool.images[position]] = (tiny_pool.classes[label], split)
    pool = open_pool(str(tmp_path / "photos"))
    found = {}
    for split, (first, last) in pool.bounds.items():
        for position in range(first, last):
            found[pool.images[position]] = (pool.classes[pool.labels[position]], split)
    assert found == expected


def test_what_a_data_set_may_lack(tmp_path, monkeypatch, datasets, write_split, tiny_pool):
    root = write_split("train")
    monkeypatch.setenv("HASHZOO_DATA", str(root))
    with pytest.raises(DataError, match=r"cifar10 has no Parquet file of split 'test' \(named test-\*\.parquet\)"):
        open_pool("cifar10")
    write_split("test")
    for change, column in (({"image": "picture"}, "img"), ({"label": "target"}, "label")):
        for split in ("train", "test"):
            write_split(split, **change)
        with pytest.raises(DataError, match=rf"'cifar10' has no column '{column}' in split 'train'"):
            open_pool("cifar10")
    (root / "cifar10" / "plain_text" / "train-00000-of-00001.parquet").write_bytes(b"no Parquet")
    with pytest.raises(
        DataError, match=r"^Data set 'cifar10' cannot be loaded \(.*put its Parquet files under \$HASHZOO_DATA"
    ):
        open_pool("cifar10")


@pytest.mark.parametrize("missing", [None, -1])
def test_images_without_a_label(monkeypatch, write_split, tiny_pool, missing):
    write_split("train", labels=[missing, *tiny_pool.labels[1:120].tolist()])
    monkeypatch.setenv("HASHZOO_DATA", str(write_split("test")))
    with pytest.raises(DataError, match=r"'cifar10' has images without a label"):
        open_pool("cifar10")


def test_names_that_nobody_has(datasets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mnist", str(tmp_path / "gone")):
        with pytest.raises(
            UnknownNameError, match=rf"No data set is named '{name}'.*known are cifar10, .*or give a folder"
        ):
            open_pool(name)
    with pytest.raises(UnknownNameError, match=r"\(did you mean 'cifar10', "):
        open_pool("cifar-10")
    with pytest.raises(UnknownNameError, match=r"No protocol is named 'cifar10-45k' \(did you mean '.*'cifar10-54k'"):
        get_protocol("cifar10-45k")


# Protocols


def protocol(**lists):
    facts = {"name": "tiny", "dataset": "cifar10", "summary": "", "draw": "tiny-0", "query": "per-class:1"}
    return Protocol(**facts | {"train": "per-class:3", "database": "rest"} | lists)


def test_every_protocol_is_of_a_known_data_set():
    assert set(dataset_names()) >= {"cifar10", "tiny-imagenet"}
    for name in protocol_names():
        rule = get_protocol(name)
        assert rule.name == name
        assert rule.dataset == "*" or rule.dataset in dataset_names()
        for part in (rule.query, rule.train, rule.database):
            kind, _, argument = part.partition(":")
            assert kind in ("split", "per-class", "rest", "rest+train")
            assert kind != "split" or argument in ("train", "test", "valid")
    for name in dataset_names():
        assert get_protocol(default_protocol(name)).dataset == name


def test_drawn_lists(tiny_pool):
    lists = make_lists(protocol(query="per-class:2", train="per-class:5"), tiny_pool)
    for values, per_class in ((lists.query, 2), (lists.train, 5), (lists.database, 9)):
        assert values.dtype == np.int64
        assert (np.diff(values) > 0).all()  # ascending, none twice
        assert np.bincount(tiny_pool.labels[values]).tolist() == [per_class] * 10
    together = np.concatenate([lists.query, lists.train, lists.database])
    assert sorted(together.tolist()) == list(range(160))  # disjoint, and nothing is lost


def test_rest_and_train(tiny_pool):
    without, with_train = (make_lists(protocol(database=rule), tiny_pool) for rule in ("rest", "rest+train"))
    np.testing.assert_array_equal(without.query, with_train.query)  # the same draws
    np.testing.assert_array_equal(without.train, with_train.train)
    assert set(with_train.database.tolist()) == set(without.database.tolist()) | set(without.train.tolist())
    assert (np.diff(with_train.database) > 0).all()
    assert not set(with_train.database.tolist()) & set(with_train.query.tolist())


def test_split_lists(tiny_pool):
    lists = make_lists(protocol(query="split:test", train="split:train", database="split:train"), tiny_pool)
    np.testing.assert_array_equal(lists.query, np.arange(120, 160))
    np.testing.assert_array_equal(lists.train, np.arange(120))
    np.testing.assert_array_equal(lists.database, np.arange(120))


def test_draws_are_the_same_everywhere(tiny_pool, run_python):
    """The first of each class by the sha256 of "key:position", said again in a process without hashzoo."""
    code = """
import hashlib, sys
labels = [int(digit) for digit in sys.argv[1]]
order = sorted(range(len(labels)), key=lambda position: hashlib.sha256(b"tiny-0:%d" % position).hexdigest())
firsts = [next(position for position in order if labels[position] == label) for label in range(10)]
print(*sorted(firsts))
"""
    done = run_python(code, "".join(map(str, tiny_pool.labels)), PYTHONHASHSEED="1")
    assert make_lists(protocol(), tiny_pool).query.tolist() == [int(word) for word in done.stdout.split()]
    other = make_lists(protocol(draw="tiny-1"), tiny_pool)
    assert other.sha256()["query"] != make_lists(protocol(), tiny_pool).sha256()["query"]


def test_lists_that_are_not_the_protocols_are_refused(tiny_pool):
    lists = make_lists(protocol(), tiny_pool)
    hashes = lists.sha256()
    assert set(hashes) == {"query", "train", "database"}
    assert make_lists(protocol(sha256=hashes), tiny_pool).sha256() == hashes
    labels = tiny_pool.labels.copy()
    position = lists.query[0]  # a query changes its class
    labels[position] = (labels[position] + 1) % 10
    other = ImagePool("cifar10", tiny_pool.images, labels, tiny_pool.classes, tiny_pool.bounds, 32)
    message = "The lists of tiny on this copy of cifar10 are not the protocol's .*labels or order of the data"
    with pytest.raises(DataError, match=message):
        make_lists(protocol(sha256=hashes), other)
    for name in hashes:
        with pytest.raises(DataError, match=message):
            make_lists(protocol(sha256=hashes | {name: "0" * 64}), tiny_pool)


def test_a_class_with_too_few_images_is_refused(tiny_pool):
    with pytest.raises(DataError, match=r"tiny.* 17"):
        make_lists(protocol(train="per-class:17"), tiny_pool)


SPLITS = {"query": "split:test", "train": "split:train", "database": "split:train"}


@pytest.mark.parametrize("splits", [True, False], ids=["splits", "drawn"])
def test_classes_kept_out_of_training(tiny_pool, splits):
    lists = make_lists(protocol(unseen=3, **(SPLITS if splits else {})), tiny_pool)
    everything = make_lists(protocol(**(SPLITS if splits else {"train": "rest"})), tiny_pool)
    held = set(tiny_pool.labels[lists.query].tolist())
    assert len(held) == 3

    def of(values, wanted):
        return [position for position in values.tolist() if (tiny_pool.labels[position] in held) == wanted]

    assert lists.query.tolist() == of(everything.query, True)
    if splits:
        assert lists.train.tolist() == of(everything.train, False)
        assert lists.database.tolist() == of(everything.database, True)
    else:  # three a class are drawn, and the database is all else of the classes that are held out
        assert np.bincount(tiny_pool.labels[lists.train], minlength=10).tolist() == [
            3 * (c not in held) for c in range(10)
        ]
        assert np.bincount(tiny_pool.labels[lists.database], minlength=10).tolist() == [
            15 * (c in held) for c in range(10)
        ]
        assert not np.intersect1d(lists.query, lists.database).size


def test_what_is_not_kept_is_not_taken(tiny_pool):
    """A list's draws of classes that it may not hold stay free for the lists below."""
    lists = make_lists(protocol(unseen=3, train="rest"), tiny_pool)
    held = np.unique(tiny_pool.labels[lists.query])
    np.testing.assert_array_equal(lists.train, np.flatnonzero(~np.isin(tiny_pool.labels, held)))


def test_held_out_classes_are_the_same_everywhere(tiny_pool, run_python):
    """The first by the sha256 of "key:class:index", said again in a process without hashzoo; more keep out these as well."""
    code = """
import hashlib
print(*sorted(range(10), key=lambda index: hashlib.sha256(b"tiny-0:class:%d" % index).hexdigest()))
"""
    order = [int(word) for word in run_python(code, PYTHONHASHSEED="1").stdout.split()]
    for unseen in (1, 3, 9):
        lists = make_lists(protocol(unseen=unseen, **SPLITS), tiny_pool)
        for values in (lists.query, lists.database):
            assert set(tiny_pool.labels[values].tolist()) == set(order[:unseen])
        assert set(tiny_pool.labels[lists.train].tolist()) == set(order[unseen:])


def test_too_few_classes_to_keep_some_out(tiny_pool):
    with pytest.raises(DataError, match=r"tiny keeps 10 classes out of training, but cifar10 has 10; none is left"):
        make_lists(protocol(unseen=10, **SPLITS), tiny_pool)


@pytest.mark.parametrize("rule", [{}, {"unseen": 3, **SPLITS}], ids=["drawn", "unseen"])
def test_drawing_by_class_needs_one_label_an_image(tiny_pool, rule):
    labels = np.eye(10, dtype=bool)[tiny_pool.labels]
    many = ImagePool("many", tiny_pool.images, labels, tiny_pool.classes, tiny_pool.bounds, 32)
    with pytest.raises(DataError, match="one label"):
        make_lists(protocol(**rule), many)


# The real data


def test_cifar100(real_pool):
    pool = real_pool("cifar100")
    assert pool.copy == "CIFAR-100, the official lossless images (sha256 of all pixels f33db8ac706110c9)"
    assert (len(pool.classes), pool.classes[0]) == (100, "apple")
    assert np.bincount(pool.labels).tolist() == [600] * 100
    for name in ("cifar100-full", "cifar100-full-1000"):
        lists = make_lists(get_protocol(name), pool)
        assert tuple(map(len, (lists.query, lists.train, lists.database))) == (10_000, 50_000, 50_000)
    few = make_lists(get_protocol("cifar100-10k"), pool)
    assert np.bincount(pool.labels[few.train]).tolist() == [100] * 100
    assert few.train.max() < 50_000 and np.array_equal(few.query, np.arange(50_000, 60_000))
    for name in ("cifar100-unseen", "cifar100-unseen-superclasses"):
        holds_out(name, pool, classes=20, queries=100, images=500)


def test_unseen_superclasses_are_whole(real_pool):
    """The coarse label of each class, from the data itself: unseen classes share none with the others."""
    import pyarrow.parquet as pq

    real_pool("cifar100")
    (path,) = (
        path for root in os.environ["HASHZOO_DATA"].split(os.pathsep) for path in Path(root).glob("cifar100/*/test-*")
    )
    table = pq.read_table(path, columns=["fine_label", "coarse_label"]).to_pydict()
    coarse = dict(zip(table["fine_label"], table["coarse_label"], strict=True))
    unseen = set(get_protocol("cifar100-unseen-superclasses").unseen_classes)
    groups = {coarse[index] for index in unseen}
    assert unseen == {index for index in range(100) if coarse[index] in groups}
    drawn = sorted(range(20), key=lambda i: hashlib.sha256(f"cifar100-0:superclass:{i}".encode()).digest())[:4]
    assert groups == set(drawn)


def test_cifar10(real_pool):
    pool = real_pool("cifar10")
    assert len(pool) == 60_000
    assert np.bincount(pool.labels).tolist() == [6000] * 10
    sizes = {
        "cifar10-full": (10_000, 50_000, 50_000),
        "cifar10-54k": (1000, 5000, 54_000),
        "cifar10-59k": (1000, 5000, 59_000),
    }
    made = {name: make_lists(get_protocol(name), pool) for name in sizes}
    for name, lists in made.items():
        assert tuple(map(len, (lists.query, lists.train, lists.database))) == sizes[name]
        assert not np.intersect1d(lists.query, lists.database).size
        assert not np.intersect1d(lists.query, lists.train).size
    for name in ("cifar10-54k", "cifar10-59k"):
        assert np.bincount(pool.labels[made[name].query]).tolist() == [100] * 10
        assert np.bincount(pool.labels[made[name].train]).tolist() == [500] * 10
    assert made["cifar10-54k"].sha256()["query"] == made["cifar10-59k"].sha256()["query"]
    assert not np.intersect1d(made["cifar10-54k"].train, made["cifar10-54k"].database).size
    assert np.isin(made["cifar10-59k"].train, made["cifar10-59k"].database).all()
    holds_out("cifar10-unseen", pool, classes=3, queries=1000, images=5000)


def test_tiny_imagenet(real_pool):
    pool = real_pool("tiny-imagenet")
    lists = make_lists(get_protocol("tiny-imagenet"), pool)
    assert tuple(map(len, (lists.query, lists.train, lists.database))) == (10_000, 100_000, 100_000)
    holds_out("tiny-imagenet-unseen", pool, classes=50, queries=50, images=500)


def holds_out(name, pool, classes, queries, images):
    """The protocol's hashes are pinned; training and evaluation share no class."""
    assert set(get_protocol(name).sha256) == {"query", "train", "database"}
    lists = make_lists(get_protocol(name), pool)
    seen, unseen = np.unique(pool.labels[lists.train]), np.unique(pool.labels[lists.query])
    assert sorted([*seen, *unseen]) == list(range(len(pool.classes)))
    assert np.unique(pool.labels[lists.query], return_counts=True)[1].tolist() == [queries] * classes
    assert np.unique(pool.labels[lists.database], return_counts=True)[1].tolist() == [images] * classes
    assert np.unique(pool.labels[lists.train], return_counts=True)[1].tolist() == [images] * len(seen)
    np.testing.assert_array_equal(np.unique(pool.labels[lists.database]), unseen)
