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
import sys
from hashzoo.cli import main
sys.argv[0] = "hashzoo"
main()
"""

without_xet = pytest.mark.parametrize("hub", [False], indirect=True, ids=["http"])  # where bytes do not matter


@pytest.fixture
def folder(tmp_path):
    """Copy a model that ships: a folder of the user's own."""
    return Path(shutil.copytree(shipped_folder() / NAME, tmp_path / NAME))


@pytest.fixture
def hashzoo(client):
    """Run the command line as ann; give exit code and output."""

    def hashzoo(*arguments, token="hf_ann_write", **options):
        done = client(HASHZOO, *arguments, token=token, check=False, **options)
        return done.returncode, done.stdout + done.stderr

    return hashzoo


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def published(hub):
    return {name: data for name, data in hub.files(REPO).items() if name != ".gitattributes"}


def test_publish_list_and_load(hub, folder, hashzoo, client, tmp_path):
    code, said = hashzoo("publish", folder, "--repo", REPO)
    assert code == 0, said
    assert "Nothing was sent; 8 files would change" in said
    assert f'hashzoo.load("hf-hub:{REPO}")' in said  # the card, as it would be
    assert REPO not in hub.repos

    code, said = hashzoo("publish", folder, "--repo", REPO, "--push")
    assert code == 0, said
    assert published(hub) == files_of(folder)
    assert hub.repos[REPO].tags == {"v1": hub.head(REPO)}
    card = ModelCard((folder / "README.md").read_text())
    assert card.data.library_name == "hashzoo"
    assert [result.dataset_config for result in card.data.eval_results] == ["cifar10-full"]

    head = hub.head(REPO)
    code, said = hashzoo("publish", folder, "--repo", REPO, "--push")
    assert code == 0, said
    assert "has these files already" in said
    assert (hub.head(REPO), hub.repos[REPO].tags) == (head, {"v1": head})

    # anybody finds and loads it
    found = json.loads(hashzoo("list", "--hub", "--bits", 48, "--method", "dsbh", "--json", token=None)[1])
    assert [(model["name"], model["bits"], model["protocol"]) for model in found] == [(REPO, 48, "cifar10-full")]
    assert 0.5 < found[0]["map"] < 1
    assert json.loads(hashzoo("list", "--hub", "--bits", 64, "--json", token=None)[1]) == []
    code, said = hashzoo("info", f"hf-hub:{REPO}", "--json", token=None)
    assert json.loads(said)["config"]["bits"] == 48
    assert "model.safetensors" not in str(list(client.home.rglob("*")))  # facts need no weights
    code, said = hashzoo("fetch", f"hf-hub:{REPO}@v1", "--json", token=None)
    assert code == 0, said
    assert files_of(Path(json.loads(said)[0]["folder"])) == files_of(folder)
    code, said = hashzoo("verify", f"hf-hub:{REPO}", token=None, env={"HF_HUB_OFFLINE": "1"})
    assert (code, said.strip()) == (0, f"hf-hub:{REPO}: ok")


@without_xet
def test_words_of_people_survive(hub, folder, hashzoo):
    hashzoo("publish", folder, "--repo", REPO, "--push")
    card = hub.files(REPO)["README.md"].decode()
    hub.commit(REPO, {"README.md": f"{card}\nMind the gap.\n".encode()})
    code, said = hashzoo("publish", folder, "--repo", REPO, "--push")
    assert code == 0, said
    assert hub.files(REPO)["README.md"].decode().partition(END)[2].strip() == "Mind the gap."
    with (folder / "README.md").open("a") as file:
        file.write("\nOther words.\n")
    code, said = hashzoo("publish", folder, "--repo", REPO, "--push")
    assert code == 2
    assert "has other words of its own" in said


@without_xet
def test_a_private_repository_and_a_pull_request(hub, folder, hashzoo):
    assert hashzoo("publish", folder, "--repo", REPO, "--push", "--private")[0] == 0
    assert hub.repos[REPO].private
    head = hub.head(REPO)
    with (folder / "README.md").open("a") as file:
        file.write("\nMy own words.\n")
    code, said = hashzoo("publish", folder, "--repo", REPO, "--push", "--pr")
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


@without_xet
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pickled, "pytorch_model.bin is no file of a model's folder"),
        (without_seed, "'rows.0.seed' is wrong"),
        (other_number, "README.md does not say what results.json says"),
        (other_weights, "fails its probe"),
        (lambda folder: (folder / "probe.json").unlink(), "has no probe.json"),
    ],
    ids=["pickle", "no seed", "card", "probe", "file"],
)
def test_folders_that_are_not_fit(hub, folder, hashzoo, spoil, message):
    spoil(folder)
    code, said = hashzoo("publish", folder, "--repo", REPO, "--push")
    assert code == 2
    assert message in said
    assert not hub.repos


@without_xet
def test_who_may_not_publish(hub, folder, hashzoo):
    code, said = hashzoo("publish", folder, "--repo", "zoo/bad..name", "--push")
    assert code == 2
    assert "no name of the Hub" in said
    code, said = hashzoo("publish", folder, "--repo", REPO, "--push", token=None)
    assert code == 2
    assert "log in with `hf auth login`" in said
    code, said = hashzoo("publish", folder, "--repo", REPO, "--push", token="hf_bob_read")
    assert code == 2
    assert "The Hub refuses" in said
    assert REPO not in hub.repos


@without_xet
def test_a_commit_that_came_between_is_not_overwritten(hub, folder, hashzoo):
    hashzoo("publish", folder, "--repo", REPO, "--push")
    with (folder / "README.md").open("a") as file:
        file.write("\nMy own words.\n")
    between = Fault(method="POST", path="/commit/", times=1)
    between.action = lambda: hub.commit(REPO, {"notes.txt": b"by another"})
    hub.faults.append(between)
    code, said = hashzoo("publish", folder, "--repo", REPO, "--push")
    assert code == 2
    assert "changed on the Hub meanwhile; nothing was uploaded" in said
    assert b"My own words." not in hub.files(REPO)["README.md"]
    assert hashzoo("publish", folder, "--repo", REPO, "--push")[0] == 0
    assert hub.files(REPO)["notes.txt"] == b"by another"


def test_a_hub_that_fails_or_a_kill(hub, folder, hashzoo, client):
    hub.faults.append(Fault(method="POST", path="/commit/", status=500))
    code, said = hashzoo("publish", folder, "--repo", REPO, "--push")
    assert code == 2
    assert "The Hub answers 500" in said
    hub.faults[:] = [Fault(method="POST", path="/commit/", delay=30.0, times=1)]
    process = client.start(HASHZOO, "publish", folder, "--repo", REPO, "--push", token="hf_ann_write")
    deadline = time.monotonic() + 100
    while not hub.faults[0].hits and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert hub.faults[0].hits
    hub.faults.clear()
    assert hashzoo("publish", folder, "--repo", REPO, "--push")[0] == 0
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
