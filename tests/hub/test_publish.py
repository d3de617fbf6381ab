"""Publishing a model's folder to a Hub, listing it there, and loading it back: the real command line and client."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from hashzoo.files import sha256
from hashzoo.zoo.card import END
from hashzoo.zoo.index import shipped_folder

from .server import Fault

NAME = "dsbh-cnn3-cifar10-48bit"
REPO = f"zoo/{NAME}"
HASHZOO = """
import contextlib, io, json, sys
from hashzoo.cli import main
for line in json.loads(sys.argv[1]):
    sys.argv, said, code = ["hashzoo", *line], io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    print(json.dumps([code, said.getvalue()]), flush=True)
"""
without_xet = pytest.mark.parametrize("hub", [False], indirect=True, ids=["http"])  # where bytes do not matter


@pytest.fixture
def folder(tmp_path):
    """Copy a model that ships: a folder of the user's own."""
    return Path(shutil.copytree(shipped_folder() / NAME, tmp_path / NAME))


@pytest.fixture
def hashzoo(client):
    """Run command lines, one after the other in one process, as ann; give each one's exit code and output."""

    def hashzoo(*lines, token="hf_ann_write", **options):
        done = client(HASHZOO, json.dumps([[str(part) for part in line] for line in lines]), token=token, **options)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return hashzoo


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def published(hub):
    return {name: data for name, data in hub.files(REPO).items() if name != ".gitattributes"}


def test_publish_list_and_load(hub, folder, hashzoo, client):
    publish = ["publish", folder, "--repo", REPO]
    ((code, said),) = hashzoo(publish)
    assert code == 0, said
    assert "Nothing was sent; 8 files would change" in said
    assert f'hashzoo.load("hf-hub:{REPO}")' in said  # the card, as it would be
    assert REPO not in hub.repos

    (code, said), (again, unchanged) = hashzoo([*publish, "--push"], [*publish, "--push"])
    assert (code, again) == (0, 0), (said, unchanged)
    assert "has these files already" in unchanged
    assert published(hub) == files_of(folder)
    assert hub.repos[REPO].tags == {"v1": hub.head(REPO)}
    assert len([entry for entry in hub.log if "/commit/" in entry.path]) == 1
    card = ModelCard((folder / "README.md").read_text())
    assert card.data.library_name == "hashzoo"
    assert [result.dataset_config for result in card.data.eval_results] == ["cifar10-full"]
    assert card.data.eval_results[0].metric_args["bits"] == 48

    # anybody finds and loads it
    (_, found), (_, none), (_, facts) = hashzoo(
        ["list", "--hub", "--bits", 48, "--method", "dsbh", "--json"],
        ["list", "--hub", "--bits", 64, "--json"],
        ["info", f"hf-hub:{REPO}", "--json"],
        token=None,
    )
    (model,) = json.loads(found)
    assert (model["name"], model["bits"], model["protocol"]) == (REPO, 48, "cifar10-full")
    assert 0.5 < model["map"] < 1
    assert json.loads(none) == []
    facts = json.loads(facts)
    assert facts["config"]["bits"] == 48
    assert (facts["commit"], facts["size"]) == (hub.head(REPO), sum(map(len, files_of(folder).values())))
    assert "model.safetensors" not in str(list(client.home.rglob("*")))  # facts need no weights
    ((code, said),) = hashzoo(["fetch", f"hf-hub:{REPO}@v1", "--json"], token=None)
    assert code == 0, said
    assert files_of(Path(json.loads(said)[0]["folder"])) == files_of(folder)
    ((code, said),) = hashzoo(["verify", f"hf-hub:{REPO}"], token=None, env={"HF_HUB_OFFLINE": "1"})
    assert (code, said.strip()) == (0, f"hf-hub:{REPO}: ok")


@without_xet
def test_words_of_people_survive(hub, folder, hashzoo):
    words = b"\nMind the gap.\n"
    hub.commit(REPO, files_of(folder) | {"README.md": (folder / "README.md").read_bytes() + words})
    ((code, said),) = hashzoo(["publish", folder, "--repo", REPO, "--push"])
    assert code == 0, said
    for card in (hub.files(REPO)["README.md"], (folder / "README.md").read_bytes()):
        assert card.decode().partition(END)[2].strip() == "Mind the gap."
    path = folder / "README.md"
    path.write_text(path.read_text().replace("Mind the gap.", "Other words."))
    ((code, said),) = hashzoo(["publish", folder, "--repo", REPO, "--push"])
    assert code == 2
    assert "has other words of its own" in said


@without_xet
def test_a_private_repository_and_a_pull_request(hub, folder, hashzoo):
    ((code, said),) = hashzoo(["publish", folder, "--repo", REPO, "--push", "--private"])
    assert code == 0, said
    assert hub.repos[REPO].private
    head = hub.head(REPO)
    with (folder / "README.md").open("a") as file:
        file.write("\nMy own words.\n")
    ((code, said),) = hashzoo(["publish", folder, "--repo", REPO, "--push", "--pr"])
    assert code == 0, said
    assert re.search(r"/discussions/\d+|/pull/\d+|refs/pr", said)
    assert hub.head(REPO) == head
    assert b"My own words." in hub.files(REPO, "refs/pr/1")["README.md"]


def pickled(folder):
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


def without_seed(folder):
    results = json.loads((folder / "results.json").read_text())
    del results["rows"][0]["seed"]
    (folder / "results.json").write_text(json.dumps(results))


def other_number(folder):
    path = folder / "README.md"
    path.write_text(re.sub(r"\*\*0\.\d+\*\*", "**0.9999**", path.read_text()))


def other_weights(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({name: value * 1.5 for name, value in tensors.items()}, path)
    old = json.loads((folder / "config.json").read_text())["weights_sha256"]
    for name in ("results.json", "config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(old, sha256(path)))


UNFIT = {
    "pytorch_model.bin is no file of a model's folder": pickled,
    "'rows.0.seed' is wrong": without_seed,
    "README.md does not say what results.json says": other_number,
    "fails its probe": other_weights,
    "has no probe.json": lambda folder: (folder / "probe.json").unlink(),
}


@without_xet
def test_folders_that_are_not_fit(hub, folder, hashzoo, tmp_path):
    lines = []
    for number, spoil in enumerate(UNFIT.values()):
        spoilt = Path(shutil.copytree(folder, tmp_path / str(number) / NAME))
        spoil(spoilt)
        lines.append(["publish", spoilt, "--repo", REPO, "--push"])
    lines.append(["publish", folder, "--repo", "zoo/bad..name", "--push"])
    for (code, said), message in zip(hashzoo(*lines), [*UNFIT, "no name of the Hub"], strict=True):
        assert code == 2
        assert message in said
    assert not hub.repos


@without_xet
def test_who_may_not_publish(hub, folder, hashzoo):
    for token, message in ((None, "log in with `hf auth login`"), ("hf_bob_read", "The Hub refuses")):
        ((code, said),) = hashzoo(["publish", folder, "--repo", REPO, "--push"], token=token)
        assert code == 2
        assert message in said
    assert REPO not in hub.repos


@without_xet
def test_a_commit_that_came_between_is_not_overwritten(hub, folder, hashzoo):
    hub.commit(REPO, files_of(folder))
    with (folder / "README.md").open("a") as file:
        file.write("\nMy own words.\n")
    between = Fault(method="POST", path="/commit/", times=1)
    between.action = lambda: hub.commit(REPO, {"notes.txt": b"by another"})
    hub.faults.append(between)
    publish = ["publish", folder, "--repo", REPO, "--push"]
    (code, said), (again, _) = hashzoo(publish, publish)
    assert (code, again) == (2, 0)
    assert "changed on the Hub meanwhile; nothing was uploaded" in said
    assert hub.files(REPO)["notes.txt"] == b"by another"
    assert b"My own words." in hub.files(REPO)["README.md"]


def test_a_hub_that_fails_or_a_kill(hub, folder, hashzoo, client):
    hub.faults.append(Fault(method="POST", path="/commit/", delay=60.0, times=1))
    line = ["publish", str(folder), "--repo", REPO, "--push"]
    process = client.start(HASHZOO, json.dumps([line]), token="hf_ann_write")
    deadline = time.monotonic() + 200
    while not hub.faults[0].hits and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert hub.faults[0].hits
    hub.faults[:] = [Fault(method="POST", path="/commit/", status=500, times=1)]
    (code, said), (again, _) = hashzoo(line, line)
    assert (code, again) == (2, 0)
    assert "The Hub answers 500" in said
    assert published(hub) == files_of(folder)
    assert list(hub.repos[REPO].tags) == ["v1"]


ALL = """
import sys
from pathlib import Path
from hashzoo.zoo import index
index.INDEX, cards = Path(sys.argv[1]), Path(sys.argv[2])
index.shipped_folder = lambda: cards
import hashzoo.cli
sys.argv = ["hashzoo", *sys.argv[3:]]
hashzoo.cli.main()
"""
LOAD = """
import sys
from pathlib import Path
from hashzoo.zoo import index
index.INDEX, cards = Path(sys.argv[1]), Path(sys.argv[2])
index.shipped_folder = lambda: cards
import hashzoo
print(hashzoo.load(sys.argv[3], device="cpu").folder)
model = hashzoo.HashModel.from_pretrained(sys.argv[4])
model.save_pretrained(sys.argv[5])
print(model.push_to_hub("zoo/again"))
"""


@without_xet
def test_all_that_ship_and_the_index(hub, folder, client, tmp_path):
    cards, index = folder.parent / "cards", tmp_path / "index.json"
    cards.mkdir()
    folder.rename(cards / NAME)
    write = "import sys\nfrom pathlib import Path\nfrom hashzoo.zoo import index\n"
    write += "index.INDEX = Path(sys.argv[1]); index.shipped_folder = lambda: Path(sys.argv[2])\n"
    index.write_text('{"format": 1, "models": []}')
    client(write + "index.write_index()", index, cards)
    done = client(ALL, index, cards, "publish", "--all", "--repo", "zoo", "--push", token="hf_ann_write")
    assert "/commit/" in done.stdout or hub.head(REPO)[:7] in done.stdout
    (entry,) = json.loads(index.read_text())["models"]
    assert (entry["repo"], entry["commit"]) == (REPO, hub.head(REPO))
    client(write + "index.write_index()", index, cards)  # made anew, it still knows
    assert json.loads(index.read_text())["models"] == [entry]

    # where the folder is not at hand, the name is fetched at the pinned commit
    hub.commit(REPO, {"model.safetensors": b"newer"})
    saved = tmp_path / "saved"
    done = client(LOAD, index, tmp_path / "nowhere", NAME, f"{REPO}", saved, token="hf_ann_write", check=False)
    assert (
        "WeightsError" in done.stderr or "not the" in done.stderr
    )  # the newest commit's weights are not config.json's
    hub.commit(REPO, {"model.safetensors": (cards / NAME / "model.safetensors").read_bytes()})
    done = client(LOAD, index, tmp_path / "nowhere", NAME, f"{REPO}", saved, token="hf_ann_write")
    lines = done.stdout.splitlines()
    assert Path(lines[0]).name == entry["commit"]
    assert files_of(saved) == files_of(cards / NAME)
    assert hub.files("zoo/again")["config.json"] == (saved / "config.json").read_bytes()
