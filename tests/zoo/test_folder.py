import json
import os
import re
import shutil
import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from hashzoo.config import BackboneSource, ComponentRef, ModelConfig
from hashzoo.errors import ConfigError, HubError, PluginError, UnknownNameError, WeightsError
from hashzoo.files import sha256
from hashzoo.pretrained import open_model
from hashzoo.release.publish import check_folder
from hashzoo.zoo.folder import open_folder, save_folder
from hashzoo.zoo.names import describe
from hashzoo.zoo.probe import check_probe, write_probe
from hashzoo.zoo.published_codes import read_codes


def config_of(model, dtype="float16", **facts):
    return ModelConfig(
        name=model.name, method="dsbh", bits=model.bits, backbone=ComponentRef(name="cnn3", package="hashzoo-dsbh"),
        head=ComponentRef(name="linear", package="hashzoo"), quantizer=ComponentRef(name="sign", package="hashzoo"),
        preprocess=model.preprocess.config, dataset="cifar10", classes=("cat", "dog"), dtype=dtype,
        weights_sha256="0" * 64, **facts,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, make_model):
    """Save a small model, and give its folder."""
    model = make_model()
    save_folder(tmp_path / "demo", model, config_of(model))
    return tmp_path / "demo"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    """Change the tensors, and the config's sha256 with them, so that only their own check can find it."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    edit_config(folder, weights_sha256=sha256(path))


# Round trip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip(tmp_path, photo, make_model, dtype):
    model = make_model(bits=13).train()
    config = save_folder(tmp_path / "a" / "demo", model, config_of(model, dtype))
    assert model.training
    opened = open_folder(str(tmp_path / "a" / "demo"))
    assert not opened.training
    assert (opened.name, opened.bits, opened.preprocess.config) == ("demo", 13, model.preprocess.config)
    for key, value in model.state_dict().items():
        rounded = value.half().float() if dtype == "float16" and value.ndim > 1 else value
        assert torch.equal(opened.state_dict()[key], rounded), key
    if dtype == "float32":
        assert opened.encode(photo()).packed.tolist() == model.encode(photo()).packed.tolist()
    again = save_folder(tmp_path / "b", opened, config_of(opened, dtype))
    assert again == config  # the same bytes, so the same sha256
    assert sha256(tmp_path / "b" / "model.safetensors") == config.weights_sha256
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "b").iterdir()} == {
        stat.S_IMODE((tmp_path / "b" / "config.json").stat().st_mode)
    }


def test_only_what_was_saved_is_in_the_folder(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


# A backbone that another model's file has


@pytest.fixture
def shared(tmp_path, folder, make_model, monkeypatch):
    """Save a model with the backbone of `folder`; give its folder."""
    monkeypatch.setenv("HASHZOO_PATH", str(tmp_path))
    model = make_model(bits=24, seed=1, name="shared")
    model.backbone.load_state_dict(open_folder(folder).backbone.state_dict())
    source = BackboneSource(model="demo", weights_sha256=sha256(folder / "model.safetensors"))
    save_folder(tmp_path / "shared", model, config_of(model, backbone_from=source))
    return tmp_path / "shared"


def test_a_shared_backbone_is_stored_once(folder, shared, tmp_path):
    assert {key.partition(".")[0] for key in load_file(shared / "model.safetensors")} == {"head"}
    model = open_model(shared)
    for key, value in open_folder(folder).backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value), key
    model.save_pretrained(tmp_path / "again")
    assert sha256(tmp_path / "again" / "model.safetensors") == model.config.weights_sha256
    with torch.no_grad():
        next(model.backbone.parameters()).flatten()[0] += 1  # no longer the other's: nothing of it is lost
    model.save_pretrained(tmp_path / "changed")
    changed = open_model(tmp_path / "changed")
    assert changed.config.backbone_from is None
    assert torch.equal(next(changed.backbone.parameters()), next(model.backbone.parameters()).half().float())


def test_a_shared_backbone_is_told_by_its_hash(tmp_path, folder, shared, monkeypatch):
    (tmp_path / "shipped").mkdir()
    folder.rename(tmp_path / "shipped" / "demo")
    monkeypatch.setattr("hashzoo.zoo.folder.shipped_folder", lambda: tmp_path / "shipped")
    shutil.copytree(tmp_path / "shipped" / "demo", folder)  # another training's comes first by its name
    edit_weights(folder, lambda tensors: tensors["backbone.layers.0.bias"].add_(1))
    wanted = open_folder(tmp_path / "shipped" / "demo").backbone.state_dict()
    for key, value in open_folder(shared).backbone.state_dict().items():
        assert torch.equal(value, wanted[key]), key


@pytest.mark.parametrize("case", ["flipped", "retrained", "missing", "other network", "gone"])
def test_a_shared_backbone_is_read_strictly(folder, shared, case):
    weights, error = folder / "model.safetensors", WeightsError
    message = r"demo/model\.safetensors is missing or not the file that a backbone was taken from .*; get that version of demo"
    if case == "flipped":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif case == "retrained":
        edit_weights(folder, lambda tensors: tensors["head.linear.bias"].add_(1))
    elif case == "missing":
        weights.unlink()
    elif case == "other network":
        edit_weights(folder, lambda tensors: tensors.pop("backbone.layers.0.bias"))
        config = json.loads((shared / "config.json").read_text())
        edit_config(shared, backbone_from=config["backbone_from"] | {"weights_sha256": sha256(weights)})
        message = r"demo/model\.safetensors lacks tensor 'backbone\.layers\.0\.bias'"
    else:
        shutil.rmtree(folder)
        error, message = UnknownNameError, "No model is named 'demo'"
    with pytest.raises(error, match=message):
        open_folder(shared)


def test_a_shared_backbone_is_published_only_with_hashzoo(shared):
    with pytest.raises(
        HubError,
        match=r"takes its backbone from demo, which neither comes with hashzoo nor is on the Hub; train it with",
    ):
        check_folder(shared)


# Weights


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing; copy the model.s folder again, or train"):
        open_folder(folder)


@pytest.mark.parametrize("share", [0, 0.0001, 0.001, 0.3, 0.7, 0.99999])
def test_one_flipped_bit(folder, share):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged: its sha256 is not the config's"):
        open_folder(folder)


@pytest.mark.parametrize("case", ["truncated", "longer", "empty", "garbage", "header alone"])
def test_damaged_weights(folder, case):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    made = {
        "truncated": data[:-1],
        "longer": data + b"\0",
        "empty": b"",
        "garbage": b"garbage" * 99,
        "header alone": data[:50],
    }
    path.write_bytes(made[case])
    with pytest.raises(WeightsError, match="is damaged: its sha256"):
        open_folder(folder)
    edit_config(folder, weights_sha256=sha256(path))
    with pytest.raises(WeightsError, match="is no whole safetensors file"):
        open_folder(folder)


BIAS, MATRIX = "head.linear.bias", "head.linear.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(BIAS), f"lacks tensor '{BIAS}'"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "has an unknown tensor 'extra'"),
        (lambda tensors: tensors.update({"head.linear.b": tensors.pop(BIAS)}), f"lacks tensor '{BIAS}'"),
        (
            lambda tensors: tensors.update({BIAS: torch.zeros(13)}),
            rf"tensor '{BIAS}' is torch.float32 \(13,\), its config.json makes it torch.float32 \(12,\)",
        ),
        (
            lambda tensors: tensors.update({BIAS: torch.zeros(12, 1)}),
            rf"tensor '{BIAS}' is torch.float32 \(12, 1\), its config.json makes it torch.float32 \(12,\)",
        ),
        (
            lambda tensors: tensors.update({MATRIX: tensors[MATRIX].T.contiguous()}),
            rf"tensor '{MATRIX}' is torch.float16 \(500, 12\), its config.json makes it torch.float16 \(12, 500\)",
        ),
        (
            lambda tensors: tensors.update({MATRIX: tensors[MATRIX].float()}),
            rf"tensor '{MATRIX}' is torch.float32 \(12, 500\), its config.json makes it torch.float16",
        ),
        (lambda tensors: tensors.update({MATRIX: tensors[MATRIX].bfloat16()}), f"tensor '{MATRIX}' is torch.bfloat16"),
        (lambda tensors: tensors.update({BIAS: tensors[BIAS].half()}), f"tensor '{BIAS}' is torch.float16"),
        (lambda tensors: tensors.update({BIAS: tensors[BIAS].int()}), f"tensor '{BIAS}' is torch.int32"),
    ],
    ids=["missing", "extra", "renamed", "longer", "2-d", "transposed", "float32", "bfloat16", "float16", "integer"],
)
def test_tensors_that_do_not_fit(folder, change, message):
    edit_weights(folder, change)
    with pytest.raises(WeightsError, match=message):
        open_folder(folder)


def test_weights_of_another_length(folder):
    edit_config(folder, bits=16)
    with pytest.raises(WeightsError, match=r"tensor 'head\.linear\..*12.* its config\.json makes it .*16"):
        open_folder(folder)


# config.json


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": 3},
            r"config\.json has format 3, this hashzoo reads up to 2; update with `pip install --upgrade hashzoo`",
        ),
        ({"format": "1"}, "'format' is wrong"),
        ({"bogus": 1}, r"config\.json: 'bogus' is no key that this hashzoo knows; if a newer one wrote it, update"),
        ({"bits": "many"}, r"'bits' is wrong \(.*got 'many'"),
        ({"bits": 12.5}, "'bits' is wrong"),
        ({"bits": 2048}, "'bits' is wrong"),
        ({"bits": None}, "'bits' is wrong"),
        ({"name": "../evil"}, "'name' is wrong"),
        ({"weights_sha256": "abc"}, "'weights_sha256' is wrong"),
        ({"dtype": "float8"}, "'dtype' is wrong"),
        ({"classes": 10}, "'classes' is wrong"),
        ({"head": "linear"}, "'head' is wrong"),
        ({"head": {"name": "linear", "path": "x.py"}}, r"'head\.path' is no key"),
        ({"preprocess": {"size": [0, 32]}}, r"'preprocess\.size\.0' is wrong"),
        ({"preprocess": {"size": [32]}}, r"'preprocess\.size"),
        ({"preprocess": {"size": [32, 32], "fit": "stretch"}}, r"'preprocess\.fit' is wrong"),
    ],
)
def test_wrong_configs(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ConfigError, match=message):
        open_folder(folder)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"no json", b'{"name": 1,}'])
def test_configs_that_are_no_json(folder, data):
    (folder / "config.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"config\.json cannot be read as JSON"):
        open_folder(folder)


@pytest.mark.parametrize("data", ["[]", "null", "5", '"text"', "{}"])
def test_configs_that_are_no_config(folder, data):
    (folder / "config.json").write_text(data)
    with pytest.raises(ConfigError, match=r"config\.json: '.*' is wrong"):
        open_folder(folder)


def test_missing_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json is missing; a model's folder needs it"):
        open_folder(folder)
    with pytest.raises(ConfigError, match="is missing"):
        open_folder(folder / "no-such-folder")


def test_a_missing_field_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    for key in ("name", "bits", "backbone", "weights_sha256"):
        rest = {name: value for name, value in config.items() if name != key}
        (folder / "config.json").write_text(json.dumps(rest))
        with pytest.raises(ConfigError, match=rf"'{key}' is wrong \(Field required"):
            open_folder(folder)


def test_components_that_are_not_installed(folder):
    edit_config(folder, head={"name": "liner"})
    with pytest.raises(UnknownNameError, match=r"No head is named 'liner' \(did you mean 'linear'"):
        open_folder(folder)
    edit_config(folder, head={"name": "fancy", "package": "zoo-fancy"})
    with pytest.raises(
        PluginError,
        match=r"The head 'fancy' comes with the package zoo-fancy, as the config says, not hashzoo; .*pip install zoo-fancy` if",
    ):
        open_folder(folder)
    for package in ("evil; rm -rf /", "--index-url=evil", "a\nb", "git+https://evil", "a b", "", "e" * 97):
        edit_config(folder, head={"name": "fancy", "package": package})
        with pytest.raises(ConfigError, match=r"'head\.package' is wrong") as refused:
            open_folder(folder)
        assert "pip install" not in str(refused.value)


# Folders that others made


BOMB = """
import resource, sys
from hashzoo.errors import HashzooError
from hashzoo.zoo import folder, published_codes
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
import timm
before = peak()
try:
    published_codes.read_codes(sys.argv[1]) if sys.argv[1].endswith("parquet") else folder.open_folder(sys.argv[1])
except HashzooError as error:
    print(f"{peak() - before} MiB: {error}")
"""


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {"name": "timm/vit_giant_patch14_224"}},
        {"backbone": {"name": "torchvision/vit_h_14"}},
        {"backbone": {"name": "torchvision/vgg19"}, "classes": ["x"] * 60_000},
    ],
)
def test_what_the_file_does_not_hold_is_not_built(folder, run_python, changes):
    edit_config(folder, **changes)
    done = run_python(BOMB, folder)
    peak, _, said = done.stdout.partition(" MiB: ")
    assert "model.safetensors lacks tensor 'backbone." in said, done.stderr
    assert int(peak) < 200, done.stdout


def write_many_rows(path, rows):
    """Rows that are all alike: a run of a value takes some bytes, however long it is."""
    facts = {"format": 1, "model": "demo", "bits": 12, "protocol": "cifar10-full", "classes": ["cat", "dog"]}
    columns = {
        "split": pa.array(["query"]).dictionary_encode(),
        "position": pa.array([0]),
        "label": pa.array([0], pa.int16()),
        "code": pa.array([bytes(2)], pa.binary(2)),
    }
    part = pa.table(columns).replace_schema_metadata({"hashzoo": json.dumps(facts)})
    part = part.take(np.zeros(1_000_000, dtype=np.int64)).combine_chunks()
    with pq.ParquetWriter(path, part.schema, compression="zstd") as writer:
        for _ in range(rows // len(part)):
            writer.write_table(part)


def test_codes_that_unpack_to_more_than_any_data_set_has(tmp_path, run_python):
    write_many_rows(tmp_path / "codes.parquet", 1_000_000)
    assert len(read_codes(tmp_path / "codes.parquet").codes["query"]) == 1_000_000
    write_many_rows(tmp_path / "codes.parquet", 30_000_000)
    assert (tmp_path / "codes.parquet").stat().st_size < 1_000_000
    done = run_python(BOMB, tmp_path / "codes.parquet")
    peak, _, said = done.stdout.partition(" MiB: ")
    assert "it unpacks to more than 268,435,456 bytes" in said, done.stderr
    assert int(peak) < 200, done.stdout


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "[" * 100_000, "cannot be read as JSON (it is nested too deep)"),
        ("config.json", " " * (2 << 20), "cannot be read as JSON (It has more than the 1,048,576 bytes"),
        ("config.json", '{"bits": NaN}', "cannot be read as JSON (NaN is no number of JSON)"),
        ("config.json", None, "cannot be read as JSON (It is no regular file)"),
        ("model.safetensors", None, "model.safetensors cannot be read (It is no regular file)"),
    ],
)
def test_files_that_are_no_use(folder, name, text, message):
    (folder / name).unlink()
    if text is None:
        os.mkfifo(folder / name)  # which nobody writes to
    else:
        (folder / name).write_text(text)
    with pytest.raises((ConfigError, WeightsError), match=re.escape(message)):
        open_folder(folder)
    if name == "config.json":
        with pytest.raises(ConfigError, match="is no model's folder"):
            describe(folder)


def test_facts_of_another_type(folder):
    for change in ({"bits": "48"}, {"name": ["demo"]}, {"license": None}, {"backbone": {"name": 3}}):
        good = (folder / "config.json").read_text()
        edit_config(folder, **change)
        with pytest.raises(ConfigError, match="is no model's folder"):
            describe(folder)
        (folder / "config.json").write_text(good)


def test_a_header_of_weights_that_is_too_long(folder):
    path = folder / "model.safetensors"
    header = json.dumps({"__metadata__": {"words": "x" * (5 << 20)}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    edit_config(folder, weights_sha256=sha256(path))
    with pytest.raises(WeightsError, match=r"is no whole safetensors file \(a header of 5,"):
        open_folder(folder)


@pytest.mark.parametrize(
    "changes", [{"u": [[0.0]] * 7 + [[0.0, 1.0]]}, {"codes": ["00"] * 7 + ["0000"]}, {"u": []}, {"codes": []}]
)
def test_a_probe_of_another_shape(folder, changes):
    model = open_folder(folder)
    write_probe(folder, model)
    assert check_probe(folder, model) == []
    probe = json.loads((folder / "probe.json").read_text()) | changes
    (folder / "probe.json").write_text(json.dumps(probe))
    assert check_probe(folder, model) == ["probe.json does not have 8 codes of 12 bits and their values"]


def test_saving_copies_no_link(folder, tmp_path, monkeypatch):
    (folder / "README.md").write_text("card")
    (folder / "diary.txt").write_text("mine")
    model = open_model(folder)
    model.save_pretrained(tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    cache = tmp_path / "cache"
    for target, refused in ((cache / "blob", False), (tmp_path / "secret", True)):
        cache.mkdir(exist_ok=True)
        target.write_text("words")
        folder = folder.rename(cache / str(refused))  # where all files are links, to others of the cache
        (folder / "README.md").unlink()
        (folder / "README.md").symlink_to(target)
        model.folder = folder
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        if refused:
            with pytest.raises(ConfigError, match=r"README.md cannot be copied \(It is a link"):
                model.save_pretrained(tmp_path / "b")
        else:
            model.save_pretrained(tmp_path / "c")
            assert (tmp_path / "c" / "README.md").read_text() == "words"
            assert not (tmp_path / "c" / "README.md").is_symlink()
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "elsewhere"))
            with pytest.raises(ConfigError, match=r"README.md cannot be copied \(It is a link"):
                model.save_pretrained(tmp_path / "d")


# Saving that is stopped

CRASHES = """
import json, os, resource, signal, sys
from pathlib import Path
import torch
from hashzoo.config import ComponentRef, ModelConfig, PreprocessConfig
from hashzoo.errors import ConfigError
from hashzoo.network import HashNetwork
from hashzoo.zoo import folder as rooms

def die(): os.kill(os.getpid(), signal.SIGKILL)

def killed_at_rename(number, before):
    rename, count = os.replace, [0]
    def replace(*arguments, **options):
        count[0] += 1
        if before and count[0] == number: die()
        rename(*arguments, **options)
        if count[0] == number: die()
    os.replace = os.rename = replace

def killed_in_the_weights():
    save = rooms.save_file
    def save_file(tensors, path, *rest, **options):
        save(tensors, path, *rest, **options)
        os.truncate(path, 1000)
        die()
    rooms.save_file = save_file

def full_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

def full_disk_after_the_weights():
    write = rooms.write_text
    def write_text(*arguments):
        full_disk()
        write(*arguments)
    rooms.write_text = write_text

refs = [ComponentRef(name=name) for name in ("cnn3", "linear", "sign")]
def make(seed):
    torch.manual_seed(seed)
    return HashNetwork(*refs, bits=12, preprocess=PreprocessConfig(size=(32, 32)), name="demo")
def first_weight(model): return model.head.linear.weight[0, 0].item()
new = make(1)
config = ModelConfig(name="demo", method="dsbh", bits=12, backbone=refs[0], head=refs[1], quantizer=refs[2],
    preprocess=PreprocessConfig(size=(32, 32)), dataset="x", classes=(), dtype="float32", weights_sha256="0" * 64)
root = Path(sys.argv[1])
outcomes = {}
for name, prepare in {
    "half of the weights": killed_in_the_weights,
    "full disk at the weights": full_disk,
    "full disk at the config": full_disk_after_the_weights,
    "before rename 1": lambda: killed_at_rename(1, True),
    "after rename 1": lambda: killed_at_rename(1, False),
    "before rename 2": lambda: killed_at_rename(2, True),
    "after rename 2": lambda: killed_at_rename(2, False),
    "nothing": lambda: None,
}.items():
    folder = root / name
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            rooms.save_folder(folder, new, config)
        except BaseException as error:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        found = first_weight(rooms.open_folder(folder)) == first_weight(new)
    except ConfigError:
        found = None
    if not found:
        rooms.save_folder(folder, new, config)  # what is left is in nobody's way
    outcomes[name] = [status, found]
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    """Save a model, each time stopped at another moment, in processes of their own."""
    import os
    import subprocess
    import sys

    command = [sys.executable, "-c", CRASHES, str(tmp_path_factory.mktemp("crashes"))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("moment", "status", "whole"),
    [
        ("half of the weights", -9, None),
        ("full disk at the weights", 1, None),
        ("before rename 1", -9, None),
        ("after rename 1", -9, None),
        ("before rename 2", -9, None),
        ("full disk at the config", 1, None),
        ("after rename 2", -9, True),
        ("nothing", 0, True),
    ],
)
def test_a_save_that_is_stopped_leaves_a_whole_model_or_none(crashes, moment, status, whole):
    assert crashes[moment] == [status, whole]


def test_a_model_is_not_saved_over(tmp_path, make_model):
    model = make_model()
    save_folder(tmp_path, model, config_of(model))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match="holds a model already; save to another folder"):
        save_folder(tmp_path, make_model(), config_of(model))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
