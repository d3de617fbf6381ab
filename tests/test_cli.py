"""The command line as its user meets it: in a process of its own."""

import atexit
import dataclasses
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

import hashzoo
from hashzoo.files import sha256
from hashzoo.zoo.names import list_models, shipped_folder

spec = importlib.util.spec_from_file_location("old_formats", Path(__file__).parent / "index" / "old_formats.py")
assert spec and spec.loader
old_formats = importlib.util.module_from_spec(spec)
spec.loader.exec_module(old_formats)

SHIPPED = [info.name for info in list_models()]
MODEL = "dsbh-cnn3-cifar10-48bit"
pytestmark = pytest.mark.skipif(MODEL not in SHIPPED, reason=f"{MODEL} does not ship in this checkout")


FORK = """
import gc, json, os, sys, traceback
import hashzoo.network, hashzoo.search.cpu, timm, pandas  # what takes seconds
from hashzoo.cli import main
gc.freeze()
for line in sys.stdin:
    sys.argv, environment, *files = json.loads(line)
    if (child := os.fork()) == 0:
        for stream, name in enumerate(files, 1):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream)
        os.environ.clear()
        os.environ.update(environment)
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)  # to tear torch down takes a second
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def forks() -> subprocess.Popen[str]:
    """Start a process that runs each command line in a fork of itself."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", FORK], text=True, **pipes)
    atexit.register(process.kill)
    return process


def environment_with(changes: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("HASHZOO_")} | changes


def run(*arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own that has torch imported already."""
    command = ["hashzoo", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        process = forks()
        assert process.stdin and process.stdout
        print(json.dumps([command, environment_with(changes), *map(str, files)]), file=process.stdin, flush=True)
        code = int(process.stdout.readline())
        return subprocess.CompletedProcess(command, code, *(file.read_text() for file in files))


def run_anew(*arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a new Python, for changes that are read when it starts."""
    command = [sys.executable, "-m", "hashzoo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment_with(changes), check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (40 + number, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
    return path


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, one sentence with these words, no traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def test_listing_loads_no_torch() -> None:
    code = (
        "import sys, hashzoo; assert 'torch' not in sys.modules; sys.argv = ['hashzoo', 'list', '--json'];\n"
        "from hashzoo.cli import app; app(standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'huggingface_hub', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert {entry["name"] for entry in json.loads(result.stdout)} >= set(SHIPPED)


def test_list_filters() -> None:
    listed = json.loads(run("list", "ds*cifar10-*bit", "--bits", "48", "--json").stdout)
    assert [entry["name"] for entry in listed] == [MODEL, "dsbh-cnn3-wide-cifar10-48bit"]
    assert json.loads(run("list", "--bits", "7", "--json").stdout) == []
    assert MODEL in run("list").stdout


def test_info_says_what_is_known() -> None:
    facts = json.loads(run("info", MODEL, "--json").stdout)
    assert facts["config"]["bits"] == 48
    assert facts["results"]["rows"][0]["ties"] == "expected"
    said = run("info", MODEL).stdout
    for fact in ("cifar10-full", "licence of weights", "licence of training data", "one seed, 0: spread not known"):
        assert fact in said


EVIL = "x\n\x1b[31mError: run `pip install evil`\x9b2J\u202e\r[bold]" + "y" * 9000


def test_words_of_others_do_nothing(folder: Path, tmp_path: Path) -> None:
    """A terminal sees no control character of a config, of results, of file names, of codes, or of a plugin's metadata."""
    copy = shutil.copytree(shipped_folder() / MODEL, tmp_path / "zoo" / "[red]\x1b[31mzoo\n")
    config, results = (json.loads((copy / name).read_text()) for name in ("config.json", "results.json"))
    config |= {"method": EVIL, "dataset": EVIL, "license": EVIL, "classes": [EVIL[:200], *config["classes"]]}
    row, training = results["rows"][0], results["training"]
    for facts, keys in ((row, ("protocol", "device", "commit")), (training, ("protocol", "init", "data_license"))):
        facts.update(dict.fromkeys(keys, EVIL))
    codes = pq.read_table(copy / "codes.parquet")
    facts = json.loads(codes.schema.metadata[b"hashzoo"]) | {"model": EVIL, "protocol": EVIL}
    pq.write_table(codes.replace_schema_metadata({"hashzoo": json.dumps(facts)}), copy / "codes.parquet")
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "results.json").write_text(json.dumps(results))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    shutil.copy(folder / "0.png", pictures / "[red]\x1b[31m\n.png")
    (pictures / "\x1b]0;title\a.png").write_bytes(b"no picture")
    packages = tmp_path / "packages" / "evil-1.0.dist-info"
    packages.mkdir(parents=True)
    (packages / "METADATA").write_text("Name: ev\x1b[31mil\nVersion: 1.0\x1b[2J\n")
    (packages / "entry_points.txt").write_text("[hashzoo.plugins]\nevil = nowhere\n")
    place = {"HASHZOO_PATH": str(tmp_path / "zoo")}
    own = ["list", "info", "verify", "eval"]  # those that read the model
    for line, words in (
        (["list"], "pip install evil"),
        (["info", MODEL], "pip install evil"),
        (["verify", f"local-dir:{copy}"], "zoo\\n: ok"),
        (["eval", MODEL, "--from-codes"], "pip install evil"),
        (["index", pictures, "--out", tmp_path / "index"], "title"),
        (["search", tmp_path / "index", folder / "0.png"], "[red]\\x1b"),
        (["search", tmp_path / "index", pictures / "\x1b]0;title\a.png"], "title"),
        (["plugins"], "ev\\x1b[31mil 1.0\\x1b[2J is broken"),
    ):
        changes = place if line[0] in own else {"PYTHONPATH": str(packages.parent)} if line == ["plugins"] else {}
        done = (run_anew if line == ["plugins"] else run)(*line, **changes)
        said = done.stdout + done.stderr
        assert words in said and "Traceback" not in said, (line, said)
        assert all(part.isprintable() for part in said.split("\n")), (line, said)
        assert not any(part.startswith("Error: run") for part in said.split("\n")), (line, said)


def test_mistyped_name() -> None:
    refused(run("info", "dsbh-cnn3-cifar10-48bits"), "did you mean", MODEL)
    refused(run("info", "org/model"), "local-dir:org/model")
    refused(run("info", "local-dir:nowhere"), "nowhere", "config.json")
    refused(run_anew("info", "hf-hub:org/model", HF_HUB_OFFLINE="1"), "switched off", "local-dir:")


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in run("--debug", "info", "nope").stderr


def test_verify_finds_a_flipped_byte(tmp_path: Path) -> None:
    good = run("verify", MODEL)
    assert good.returncode == 0 and good.stdout.strip() == f"{MODEL}: ok", good.stderr
    (source,) = [info.folder for info in list_models(MODEL)]
    copy = tmp_path / MODEL
    copy.mkdir()
    for path in source.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    bad = run("verify", f"local-dir:{copy}")
    assert bad.returncode == 1 and "sha256" in bad.stdout
    refused(run("encode", MODEL, "x.png", HASHZOO_PATH=str(tmp_path)), "damaged", "model.safetensors")


def test_verify_finds_another_preprocessing(tmp_path: Path) -> None:
    (source,) = [info.folder for info in list_models(MODEL)]
    copy = tmp_path / MODEL
    copy.mkdir()
    for path in source.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    config["preprocess"]["std"][0] *= 1.2
    (copy / "config.json").write_text(json.dumps(config))
    assert "relaxed codes differ" in run("verify", f"local-dir:{copy}").stdout


def test_encode(folder: Path) -> None:
    rows = json.loads(run("encode", MODEL, folder / "0.png", folder / "1.png", "--json").stdout)
    assert [len(row["code"]) for row in rows] == [12, 12] and rows[0]["bits"] == 48
    refused(run("encode", MODEL, folder / "none.png"), "none.png", "does not exist")
    broken = folder.parent / "text.jpg"
    broken.write_text("no picture")
    refused(run("encode", MODEL, folder / "0.png", broken), "text.jpg")
    skipped = run("encode", MODEL, folder / "0.png", broken, "--on-error", "skip", "--json")
    assert [Path(row["path"]).name for row in json.loads(skipped.stdout)] == ["0.png"]
    assert "text.jpg" in skipped.stderr and "Traceback" not in skipped.stderr


def test_index_and_search(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    first = run("index", folder, "--out", index, "--model", MODEL)
    assert first.returncode == 0 and "5 added" in first.stderr, first.stderr
    again = run("index", folder, "--out", index, "--model", MODEL)
    assert "0 added, 0 changed and encoded again, 0 vanished and dropped, 5 there already" in again.stderr
    (found,) = json.loads(run("search", index, folder / "3.png", "-k", "2", "--json").stdout)
    assert found["hits"][0]["distance"] == 0 and Path(found["hits"][0]["path"]).name == "3.png"
    assert len(found["hits"]) == 2
    refused(run("search", index, folder / "3.png", "-k", "0"), "-k is at least 1, not 0")
    (near,) = json.loads(run("search", index, folder / "3.png", "--max-distance", "0", "--json").stdout)
    assert [hit["distance"] for hit in near["hits"]] == [0] * len(near["hits"])
    assert str(folder / "3.png") in [hit["path"] for hit in near["hits"]]
    refused(run("search", index, folder / "3.png", "--max-distance", "-1"), "--max-distance is at least 0, not -1")
    refused(run("search", tmp_path / "none", folder / "3.png"), "holds no index")


def test_index_skips_what_cannot_be_read(tmp_path: Path, folder: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "good.png").write_bytes((folder / "0.png").read_bytes())
    (pictures / "empty.jpg").touch()
    (pictures / "cut.png").write_bytes((folder / "1.png").read_bytes()[:900])
    Path(os.fsdecode(os.fsencode(pictures) + b"/\xff.png")).write_bytes((folder / "0.png").read_bytes())
    result = run("index", pictures, "--out", tmp_path / "index", "--model", MODEL)
    assert result.returncode == 0 and "2 added" in result.stderr and "2 skipped" in result.stderr
    assert "empty.jpg" in result.stderr and "cut.png" in result.stderr
    refused(run("index", pictures, "--out", tmp_path / "i2", "--model", MODEL, "--on-error", "raise"), "cannot be read")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    refused(run("index", nothing, "--out", tmp_path / "i3", "--model", MODEL), "no image")
    refused(run("index", tmp_path / "gone", "--out", tmp_path / "i4", "--model", MODEL), "no folder")


def test_precision(folder: Path, tmp_path: Path) -> None:
    index, in_bfloat16 = tmp_path / "index", ("--precision", "bfloat16")
    for command in (["encode", MODEL, folder / "0.png"], ["index", folder, "--out", index], ["search", index, folder]):
        refused_by_typer = run(*command, "--precision", "float16")
        assert refused_by_typer.returncode == 2
        assert "'float32'" in refused_by_typer.stderr and "'bfloat16'" in refused_by_typer.stderr
    assert not index.exists()
    assert run("index", folder, "--out", index, "--model", MODEL, *in_bfloat16).returncode == 0
    opened = hashzoo.Index.open(index)
    assert opened.paths is not None
    model = hashzoo.load(MODEL, device="cpu")
    assert opened.codes == model.encode(opened.paths.tolist(), precision="bfloat16")
    refused(run("index", folder, "--out", index, "--model", MODEL), "in bfloat16", "but these are", "in float32")
    asked = run("search", index, folder / "3.png", "-k", "1", "--json")  # in the index's precision
    assert json.loads(asked.stdout)[0]["hits"][0]["distance"] == 0 and asked.stderr == ""
    other = run("search", index, folder / "3.png", "-k", "1", "--json", "--precision", "float32")
    assert other.stderr.startswith("Warning: The query was encoded in float32 and the index in bfloat16")
    assert len(other.stderr.splitlines()) == 1 and json.loads(other.stdout)[0]["hits"]
    codes = [run("encode", MODEL, folder / "0.png", "--json", *more).stdout for more in ((), in_bfloat16)]
    expected = [
        model.encode(folder / "0.png", precision=name).packed.tobytes().hex() for name in ("float32", "bfloat16")
    ]
    assert [json.loads(code)[0]["code"] for code in codes] == expected


def test_a_bomb_is_skipped_in_one_line(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(folder / "0.png", tmp_path / "a")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "a" / "bomb.png")
    said = run("index", tmp_path / "a", "--out", tmp_path / "index", "--model", MODEL).stderr.splitlines()
    assert len(said) == 2 and "1 added" in said[1] and "1 skipped" in said[1], said
    assert said[0].startswith("Skipped: ") and "bomb.png" in said[0] and "decompression bomb" in said[0]


def test_a_saved_index_is_not_encoded_again(folder: Path, tmp_path: Path) -> None:
    run("index", folder, "--out", tmp_path / "a", "--model", MODEL)
    hashzoo.Index.open(tmp_path / "a").save(tmp_path / "b")
    again = run("index", folder, "--out", tmp_path / "b", "--model", MODEL).stderr
    assert "0 added, 0 changed and encoded again, 0 vanished and dropped, 5 there already" in again


def pictures(folder: Path, count: int, seed: int = 0) -> list[Path]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return paths


def rows_of(index: Path) -> dict[str, int]:
    """Ids by file name; each path is there once and has the code that its file has now."""
    items = hashzoo.Index.open(index)
    assert items.paths is not None and len(set(items.paths)) == len(items.paths)
    assert items.codes == hashzoo.load(MODEL, device="cpu").encode(items.paths.tolist())
    return dict(zip((Path(path).name for path in items.paths), items.ids.tolist(), strict=True))


def test_index_follows_the_folder(tmp_path: Path) -> None:
    kept, changed, touched, gone = pictures(tmp_path / "a", 4)
    pictures(tmp_path / "b", 1, seed=1)[0].rename(tmp_path / "b" / "other.png")
    index = tmp_path / "index"
    for folder in ("a", "b"):
        assert run("index", tmp_path / folder, "--out", index, "--model", MODEL).returncode == 0
    before = rows_of(index)
    stat = changed.stat()
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(changed)
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # another size, the same mtime
    os.utime(touched, ns=(0, 0))
    gone.unlink()
    kept.with_name("new.png").write_bytes(kept.read_bytes())
    result = run("index", tmp_path / "a", "--out", index, "--model", MODEL)
    assert "1 added, 2 changed and encoded again, 1 vanished and dropped, 1 there already, 0 skipped." in result.stderr
    after = rows_of(index)
    assert set(after) == {"0.png", "1.png", "2.png", "new.png", "other.png"}
    assert (after["0.png"], after["other.png"]) == (before["0.png"], before["other.png"])
    changed.write_bytes(b"no picture")
    result = run("index", tmp_path / "a", "--out", index, "--model", MODEL, "--json")
    report = json.loads(result.stdout)
    assert (report["added"], report["changed"], report["vanished"], report["there"]) == (0, 0, 0, 3)
    assert len(report["skipped"]) == 1 and str(changed) in report["skipped"][0]
    assert set(rows_of(index)) == {"0.png", "2.png", "new.png", "other.png"}  # no code of what the file was


KILL_AFTER = """
import os, signal, sys, hashzoo.cli, hashzoo.ingest as ingest, hashzoo.index.folder as store
_, name, times, *arguments = sys.argv
ingest.PART, ingest.SECONDS, calls, of = 2, 0, [], getattr(store, name)
def killed(*arguments):
    calls.append(0)
    if len(calls) > int(times):
        os.kill(os.getpid(), signal.SIGKILL)
    return of(*arguments)
setattr(store, name, killed)
sys.argv = ["hashzoo", *arguments]
hashzoo.cli.main()
"""


def test_index_goes_on_after_a_kill(tmp_path: Path) -> None:
    images = pictures(tmp_path / "a", 7)
    index = tmp_path / "index"
    arguments = ["index", tmp_path / "a", "--out", index, "--model", MODEL]

    def killed(call: str, times: int) -> None:
        command = [sys.executable, "-c", KILL_AFTER, call, times, *arguments]
        assert subprocess.run([*map(str, command)], capture_output=True, check=False).returncode == -signal.SIGKILL

    killed("append_rows", 2)
    assert set(rows_of(index)) == {"0.png", "1.png", "2.png", "3.png"}
    assert "3 added, 0 changed and encoded again, 0 vanished and dropped, 4 there" in run(*arguments).stderr
    before = rows_of(index)
    for image in images[:3]:
        Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(image)
    killed("remove", 0)  # the changed ones are encoded, what they were is there still
    again = run(*arguments).stderr
    assert "0 added, 0 changed and encoded again, 0 vanished and dropped, 7 there already" in again, again
    after = rows_of(index)
    assert set(after) == set(before)
    assert all(after[image.name] == before[image.name] for image in images[3:])


def test_two_processes_index_one_folder(tmp_path: Path) -> None:
    pictures(tmp_path / "a", 6)
    command = [sys.executable, "-m", "hashzoo", "index", tmp_path / "a", "--out", tmp_path / "index", "--model", MODEL]
    both = [subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[1].splitlines()[-1] for process in both)
    assert "0 added" in said[0] and "6 there already" in said[0] and "6 added" in said[1], said
    assert len(rows_of(tmp_path / "index")) == 6


def test_index_shows_duplicates_when_asked(tmp_path: Path) -> None:
    first, second, *_ = images = pictures(tmp_path / "a", 3)
    (tmp_path / "a" / "sub").mkdir()
    for copy, image in (("a-copy.png", first), ("sub/copy.PNG", first), ("z.png", second)):
        (tmp_path / "a" / copy).write_bytes(image.read_bytes())
    padded = tmp_path / "a" / "same-size.png"  # the same size, other bytes
    padded.write_bytes(images[2].read_bytes()[:-1] + b"x")
    arguments = ["index", tmp_path / "a", "--out", tmp_path / "index", "--model", MODEL, "--duplicates"]
    groups = json.loads(run(*arguments, "--json").stdout)["duplicates"]
    names = [[str(Path(path).relative_to(tmp_path / "a")) for path in group] for group in groups]
    assert names == [["0.png", "a-copy.png", "sub/copy.PNG"], ["1.png", "z.png"]]
    table = run(*arguments).stdout
    assert all(path in table for group in groups for path in group) and "same-size" not in table


def test_an_index_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    from hashzoo import Codes, Index

    Index(Codes.from_bits(np.eye(3, 48, dtype=bool), model="another")).save(tmp_path / "index")
    refused(run("search", tmp_path / "index", folder / "0.png", "--model", MODEL), "another", MODEL)
    refused(run("index", folder, "--out", tmp_path / "index", "--model", MODEL), "another", MODEL)


def test_an_index_of_other_weights_of_the_same_name_is_refused(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / MODEL  # as a training with another seed leaves it
    shutil.copytree(shipped_folder() / MODEL, own)
    tensors = load_file(own / "model.safetensors")
    save_file(
        {key: -value if key == "head.linear.weight" else value for key, value in tensors.items()},
        own / "model.safetensors",
    )
    config = json.loads((own / "config.json").read_text())
    config["weights_sha256"] = sha256(own / "model.safetensors")
    (own / "config.json").write_text(json.dumps(config))

    index = tmp_path / "index"
    run("index", folder, "--out", index, "--model", f"local-dir:{own}")
    refused(run("search", index, folder / "0.png"), "other weights of", MODEL, "'local-dir:FOLDER'")
    refused(run("index", folder, "--out", index, "--model", MODEL), f"{MODEL!r} (weights", "a folder of their own")
    hits = json.loads(run("search", index, folder / "0.png", "--model", f"local-dir:{own}", "--json").stdout)[0]["hits"]
    assert hits[0]["distance"] == 0


def test_a_damaged_part_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    from hashzoo import Codes, Index

    index = tmp_path / "index"
    Index(Codes.from_bits(np.eye(3, 48, dtype=bool), model=MODEL)).save(index)
    (part,) = index.glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    refused(run("search", index, folder / "0.png"), "part-00000.parquet cannot be read", "restore it")


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    out = tmp_path / "never"
    for command in (
        ["train", "dsbh", "--out", out, "--device", "gpu"],
        ["eval", MODEL, "--device", "gpu"],
        ["encode", MODEL, "x.png", "--device", "gpu"],
    ):
        refused(run(*command), "Device 'gpu' cannot be used (it is neither 'cpu' nor 'cuda'); use device='cpu'.")
    if not torch.cuda.is_available():
        refused(
            run("train", "dsbh", "--out", out, "--device", "cuda"),
            "Device 'cuda' cannot be used",
            "use device='cpu'",
        )
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('backbone = "timm/resnet50"', ["recipe of dsbh", "backbone"]),
        ("bits = 32", ["bits", "--bits"]),
        ('protocol = "split"', ["protocol", "--protocol"]),
        ("optimization.epoch = 3", ["recipe of dsbh", "epoch"]),
    ],
)
def test_a_change_that_makes_no_recipe(tmp_path: Path, change: str, words: list[str]) -> None:
    refused(run("train", "dsbh", "--out", tmp_path / "run", "--set", change), *words)
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written(folder: Path) -> None:
    refused(run("index", folder, "--out", "/proc/nowhere", "--model", MODEL), "/proc/nowhere")


def test_a_foreign_folder_beside_models(tmp_path: Path) -> None:
    for name, config in (("transformer", '{"model_type": "bert"}'), (".half.partial", "{"), ("half", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    shutil.copytree(shipped_folder() / MODEL, tmp_path / "mine")
    done = run("list", MODEL, "--json", HASHZOO_PATH=str(tmp_path))
    assert json.loads(done.stdout)[0]["folder"] == str(tmp_path / "mine")
    assert done.stderr.count("It is passed over.") == 2 and ".half.partial" not in done.stderr
    named = run("info", "half", HASHZOO_PATH=str(tmp_path))
    assert named.returncode == 2 and "No model is named 'half'" in named.stderr


def test_long_lines_of_a_table_are_whole_in_a_pipe(folder: Path, tmp_path: Path) -> None:
    place = str(tmp_path / ("x" * 120) / ("y" * 120) / "z.png")
    Path(place).parent.mkdir(parents=True)
    shutil.copy(folder / "0.png", place)
    assert place in run("encode", MODEL, place).stdout


def test_version() -> None:
    assert run("--version").stdout == f"hashzoo {hashzoo.__version__}\n"


def test_a_listing_says_what_map_is_of() -> None:
    lines = run("list", "*-tinyimagenet-*").stdout
    assert "@1000" in lines and "@all" in run("list", MODEL).stdout


def test_update_leaves_the_hubs_cache_alone() -> None:
    refused(run("eval", "hf-hub:org/name", "--update"), "hf-hub:org/name is in the Hub's cache", "local-dir:PATH")
    refused(run("eval", MODEL, "--repeat-of", "hf-hub:org/name"), "--repeat-of writes into", "hf-hub:org/name is in")


def test_eval_from_codes_finds_other_results(tmp_path: Path) -> None:
    own = tmp_path / MODEL
    shutil.copytree(shipped_folder() / MODEL, own)
    results = json.loads((own / "results.json").read_text())
    results["rows"][0]["map"] += 0.001
    results["rows"][0]["precision_at"]["10"] -= 0.001
    (own / "results.json").write_text(json.dumps(results))
    refused(run("eval", f"local-dir:{own}", "--from-codes"), "says otherwise of map, precision_at")


def test_eval_from_codes_gives_the_cards_figure() -> None:
    figures = json.loads(run("eval", MODEL, "--from-codes", "--json").stdout)
    facts = json.loads(run("info", MODEL, "--json").stdout)
    assert figures["map"] == facts["results"]["rows"][0]["map"]
    refused(run("eval", MODEL, "--from-codes", "--update"), "--from-codes")


def test_train_refuses_before_it_starts(tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(run("train", "dahb", "--out", out), "did you mean", "dahp")
    refused(run("train", "dsbh", "--out", out, "--bits", "0"), "4 to 1024")
    refused(run("train", "dsbh", "--out", out, "--dataset", "cifar"), "cifar10")
    refused(run("train", "dsbh", "--out", out, "--protocol", "cifar10-5k"), "cifar10-54k")
    refused(run("train", "dsbh", "--out", out, "--set", "optimization.epochs = 'many'"), "optimization.epochs")
    refused(run("train", "dsbh", "--out", out, "--set", "epochs"), "TOML")
    refused(run("train", str(tmp_path / "none.toml"), "--out", out), "none.toml")
    assert not out.exists()


def test_demo_with_a_folder(folder: Path, tmp_path: Path) -> None:
    result = run("demo", folder, "--out", tmp_path / "demo", "--model", MODEL)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "demo" / "index.html").read_text()
    assert page.count('class="query"') == 5 and "data:image/" in page
    again = run("demo", folder, "--out", tmp_path / "demo", "--model", "dsbh-cnn3-cifar10-12bit")  # an index of its own
    assert again.returncode == 0, again.stderr


def test_demo_with_the_photographs_that_ship(tmp_path: Path) -> None:
    result = run("demo", "--out", tmp_path / "demo", "--model", MODEL)
    assert result.returncode == 0, result.stderr
    assert "nearest to cat-1.jpg" in result.stdout
    assert "database image" in (tmp_path / "demo" / "index.html").read_text()


def test_demo_with_a_model_of_many_labels(tmp_path: Path) -> None:
    from hashzoo.zoo.published_codes import read_codes, write_codes

    own = tmp_path / MODEL
    shutil.copytree(shipped_folder() / MODEL, own)
    published = read_codes(own / "codes.parquet")
    both = np.isin(np.arange(10), (0, 3))  # airplane and cat
    labels = {name: np.tile(both, (len(label), 1)) for name, label in published.labels.items()}
    write_codes(own / "codes.parquet", dataclasses.replace(published, labels=labels))
    result = run("demo", "--out", tmp_path / "demo", "--model", f"local-dir:{own}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("airplane, cat") == result.stdout.count("database image") == 70


def test_demo_searches_only_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hashzoo.cli import demo
    from hashzoo.index import Index

    class Counted(Index):
        queries, copies = 0, 0

        def search(self, query, *arguments, **options):  # type: ignore[no-untyped-def,override]
            Counted.queries += len(query)
            return super().search(query, *arguments, **options)

        @property
        def paths(self):  # type: ignore[no-untyped-def,override]
            Counted.copies += 1
            return super().paths

    pictures(tmp_path / "a", 210)
    monkeypatch.setattr("hashzoo.index.Index", Counted)
    model = hashzoo.load(MODEL, device="cpu")
    title, groups = demo._within_folder(model, tmp_path / "a", tmp_path, 3)
    assert "210 pictures" in title and "the first 200 shown" in title
    assert len(groups) == Counted.queries == 200 and Counted.copies == 1
    assert all(len(group.hits) == 3 for group in groups)
    assert all(group.caption not in {hit.caption for hit in group.hits} for group in groups)


def test_plugins_lists_and_survives_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('boom')")
    info = tmp_path / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hashzoo.plugins]\nbroken = broken_plugin\n")
    result = run_anew("plugins", "--json", PYTHONPATH=str(tmp_path))
    listing = {plugin["package"]: plugin for plugin in json.loads(result.stdout)["plugins"]}
    assert "boom" in listing["broken-plugin"]["error"]
    assert listing["hashzoo-dahp"]["error"] is None and listing["hashzoo-dahp"]["components"]
    refused(run_anew("plugins", PYTHONPATH=str(tmp_path), HASHZOO_STRICT_PLUGINS="1"), "broken-plugin", "boom")
    limited = json.loads(run("plugins", "--json", HASHZOO_PLUGINS="dahp").stdout)["plugins"]
    assert [plugin["package"] for plugin in limited] == ["hashzoo", "hashzoo-dahp"]


def test_a_model_whose_plugin_is_not_installed(folder: Path) -> None:
    refused(run("encode", MODEL, folder / "0.png", HASHZOO_PLUGINS=""), "pip install hashzoo-dsbh")


def test_an_index_of_0_1_0_answers_and_is_encoded_again(folder: Path, tmp_path: Path) -> None:
    """As 0.1.0 wrote it, with its own id of preprocessing: it answers by stored code; a picture needs a command, which works."""
    old, pictures = tmp_path / "old", shutil.copytree(folder, tmp_path / "pictures")
    paths = sorted(str(path) for path in pictures.glob("*.png"))
    model = hashzoo.load(MODEL, device="cpu")
    codes = model.encode(paths)
    ids = [7 * place + 3 for place in range(len(paths))]
    stats = [Path(path).stat() for path in paths]
    old_formats.write(
        old / "part-00000.parquet", codes, ids, paths, [stat.st_size for stat in stats],
        [stat.st_mtime_ns for stat in stats], preprocess="0123456789abcdef",
    )  # fmt: skip
    hits = hashzoo.Index.open(old).search(codes, k=1)
    assert hits.ids[:, 0].tolist() == ids and not hits.distances.any()
    refused(run("search", old, paths[0]), "another preprocessing", f"hashzoo index --reencode --out {old}")
    refused(
        run("index", pictures, "--out", old), "preprocessing 0123456789abcdef", f"hashzoo index --reencode --out {old}"
    )
    upgraded = shutil.copytree(old, tmp_path / "upgraded")
    assert run("index", "--upgrade", "--out", upgraded).returncode == 0
    assert hashzoo.Index.open(upgraded).ids.tolist() == ids
    refused(run("index", pictures, "--out", upgraded), "--reencode")
    done = run("index", "--reencode", "--out", old)
    assert done.returncode == 0, done.stderr
    found = json.loads(run("search", old, *paths, "-k", "1", "--json").stdout)
    assert [entry["hits"][0] for entry in found] == [
        {"distance": 0, "id": number, "path": path} for number, path in zip(ids, paths, strict=True)
    ]


def test_an_index_follows_its_pictures_to_another_place(folder: Path, tmp_path: Path) -> None:
    pictures, index = shutil.copytree(folder, tmp_path / "pictures"), tmp_path / "index"
    assert run("index", pictures, "--out", index, "--model", MODEL).returncode == 0
    moved = pictures.rename(tmp_path / "nas")
    at = ("--root", f"pictures={moved}")
    hits = json.loads(run("search", index, moved / "3.png", "-k", "1", *at, "--json").stdout)[0]["hits"]
    assert hits[0]["path"] == str(moved / "3.png")
    again = run("index", moved, "--out", index, *at).stderr
    assert " 0 added, 0 changed" in again and " 0 vanished" in again
    refused(
        run("search", index, moved / "3.png", "--root", f"pictures={tmp_path}/gone"), "--root", "a folder that is there"
    )


def test_info_of_a_model_that_was_not_trained(tmp_path: Path) -> None:
    network = hashzoo.create_model("torchvision/resnet18", bits=16, preprocess={"size": (32, 32)})
    mine = hashzoo.save(network, tmp_path / "mine").folder
    (mine / "results.json").write_text('{"format": 2}')
    said = run("info", f"local-dir:{mine}")
    assert said.returncode == 0 and "mine" in said.stdout and "trained" not in said.stdout, said.stderr
    assert json.loads(run("info", f"local-dir:{mine}", "--json").stdout)["results"]["training"] is None
