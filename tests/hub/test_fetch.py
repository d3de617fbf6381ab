"""Fetching models from a Hub: whole and checked, or refused with a sentence; the client runs in processes of its own."""

import errno
import hashlib
import json
import os
import pickle
import time
from pathlib import Path

import pytest

from hashzoo.zoo.index import shipped_folder

from .server import Fault

SIZE = 60_000
CONFIG = b'{"name": "demo"}'
WEIGHTS = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(SIZE // 32))
MODEL = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "results.json": b"{}", "README.md": b"# demo\n"}
FETCH = """
import json, sys, warnings
from hashzoo.errors import HashzooError
from hashzoo.zoo import hub
assert "torch" not in sys.modules
said = []
warnings.showwarning = lambda message, *rest, **more: said.append(str(message))
pinned = json.loads(sys.argv[2]) if len(sys.argv) > 2 else None
try:
    print(json.dumps([None, str(hub.fetch(*hub.parse(sys.argv[1]), pinned=pinned)), said]))
except HashzooError as error:
    print(json.dumps([type(error).__name__, str(error), said]))
"""


@pytest.fixture
def model(hub):
    """Put a model on the hub; give its commit."""
    hub.create("zoo/demo")
    commit = hub.commit("zoo/demo", MODEL)
    hub.tag("zoo/demo", "v1", commit)
    return commit


@pytest.fixture
def fetch(client):
    """Fetch in a process of its own: (name of the error or None, folder or message, warnings)."""

    def fetch(name="hf-hub:zoo/demo", *more, **options):
        return json.loads(client(FETCH, name, *more, **options).stdout)

    return fetch


def whole(folder, files=MODEL):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()} == files


def outside(client):
    """Every file under the test's folder that is not in the cache."""
    root = client.home.parent
    return [path for path in root.rglob("*") if path.is_file() and client.home not in path.parents]


def users_tokens(hub):
    """Requests that carried a user's token; Xet has tokens of its own."""
    return [entry for entry in hub.log if (entry.token or "").startswith("hf_")]


# What works


def test_a_model_is_fetched_once(hub, model, fetch, client):
    hub.commit("zoo/demo", {"notes.txt": b"not ours", "pytorch_model.bin": b"a pickle"})
    error, folder, said = fetch()
    assert (error, said) == (None, [])
    assert whole(folder)  # of the known names only
    assert folder.endswith(hub.head("zoo/demo"))
    asked = len(hub.log)
    assert fetch(f"hf-hub:zoo/demo@{hub.head('zoo/demo')}")[1] == folder
    assert len(hub.log) == asked  # a commit that is cached whole needs no request
    assert fetch()[1] == folder
    assert len(hub.log) == asked + 1  # a branch needs one
    assert fetch("hf-hub:zoo/demo@v1")[1].endswith(model)
    assert not users_tokens(hub)


def test_pinned_hashes_need_no_listing(hub, model, fetch):
    pinned = json.dumps({name: [hashlib.sha256(data).hexdigest(), len(data)] for name, data in MODEL.items()})
    assert whole(fetch(f"hf-hub:zoo/demo@{model}", pinned)[1])
    assert not [entry for entry in hub.log if entry.path.startswith("/api/models/zoo/demo/revision")]
    wrong = json.dumps({name: ["0" * 64, len(data)] for name, data in MODEL.items()})
    error, message, _ = fetch(f"hf-hub:zoo/demo@{model}", wrong)
    assert error == "WeightsError"
    assert "is not the published one (its hash differs, downloaded twice)" in message


def test_a_branch_that_moves_between_two_files(hub, model, fetch):
    moved = Fault(method="GET", path="/resolve/", times=1)
    moved.action = lambda: hub.commit("zoo/demo", {"config.json": b'{"name": "other"}', "model.safetensors": b"other"})
    hub.faults.append(moved)
    error, folder, _ = fetch()
    assert moved.hits == 1
    assert hub.head("zoo/demo") != model
    assert (error, Path(folder).name) == (None, model)
    assert whole(folder)


def test_offline(hub, model, fetch, client):
    folder = fetch()[1]
    hub.commit("zoo/demo", {"config.json": b"{}"})
    asked = len(hub.log)
    for name in ("hf-hub:zoo/demo", f"hf-hub:zoo/demo@{model}"):
        assert fetch(name, env={"HF_HUB_OFFLINE": "1"})[:2] == [None, folder]
    no_way = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert fetch(env=no_way)[:2] == [None, folder]
    assert len(hub.log) == asked
    for env in ({"HF_HUB_OFFLINE": "1"}, no_way):
        began = time.monotonic()
        error, message, _ = fetch("hf-hub:zoo/other", env=env)
        assert error == "UnreachableError"
        assert (
            "zoo/other is not in the cache: go online, put its folder under $HASHZOO_PATH, or load 'local-dir:"
            in message
        )
        assert time.monotonic() - began < 15  # the start of Python included; the client alone would try for 23 s


def test_a_partial_or_hand_made_cache(hub, model, fetch, client):
    home = client.home / "hub" / "models--zoo--demo"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(model)
    snapshot = home / "snapshots" / model
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(CONFIG)
    offline = {"HF_HUB_OFFLINE": "1"}
    assert fetch(env=offline)[0] == "UnreachableError"  # a part is no model
    (snapshot / "model.safetensors").write_bytes(WEIGHTS)
    assert fetch(env=offline)[:2] == [None, str(snapshot)]
    assert whole(fetch()[1])  # and with a Hub it is completed


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(hub, model, fetch, client):
    folder = fetch()[1]
    for path in [client.home, *client.home.rglob("*")]:
        if path.is_dir():
            path.chmod(0o500)
    assert fetch()[:2] == [None, folder]
    error, message, _ = fetch("hf-hub:zoo/demo@v1", env={"HF_HOME": str(client.home / "no")})
    assert error == "HubError"
    assert "set HF_HOME to another place" in message


def test_a_full_disk(hub, model, client):
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
    error, message, _ = json.loads(client(limit + FETCH, "hf-hub:zoo/demo").stdout)
    assert error == "HubError"
    assert os.strerror(errno.EFBIG) in message or "did not get through" in message
    assert json.loads(client(FETCH, "hf-hub:zoo/demo").stdout)[0] is None


# Tokens


def test_tokens_go_only_where_they_are_needed(hub, model, fetch):
    assert fetch(token="hf_ann_write")[0] is None
    assert not users_tokens(hub)  # a public model is asked for without

    hub.create("zoo/secret", private=True)
    hub.commit("zoo/secret", MODEL)
    error, message, _ = fetch("hf-hub:zoo/secret")
    assert error == "HubError"
    assert "or you may not see it; check the name, or log in with `hf auth login`" in message
    error, folder, said = fetch("hf-hub:zoo/secret", token="hf_ann_write")
    assert error is None
    assert whole(folder)
    assert said
    assert "token goes to http://127.0.0.1" in said[0]
    assert "hf_ann_write" not in str(said)
    assert users_tokens(hub)
    assert not [entry for entry in users_tokens(hub) if entry.origin == "cdn"]
    assert fetch("hf-hub:zoo/secret@main", token="hf_bob_read", env={"HF_HOME": "/nonexistent"})[0] == "HubError"


def test_a_token_does_not_follow_a_redirect(hub, fetch):
    hub.create("zoo/secret", private=True)
    hub.commit("zoo/secret", MODEL)
    away = Fault(path="/resolve/.*config.json", redirect=f"{hub.cdn_url}/elsewhere", times=20)
    hub.faults.append(away)
    assert fetch("hf-hub:zoo/secret", token="hf_ann_write")[0] is not None
    assert away.hits
    assert not [entry for entry in users_tokens(hub) if entry.origin == "cdn"]
    hub.unknown.clear()


def test_gated(hub, fetch):
    hub.create("zoo/gated", gated=True)
    hub.commit("zoo/gated", MODEL)
    error, message, _ = fetch("hf-hub:zoo/gated", token="hf_bob_read")
    assert error == "HubError"
    assert "is gated: ask for it on the model's page" in message


def test_plain_http_to_another_machine(hub, fetch):
    far = {"HF_ENDPOINT": "http://hub.example.org"}
    error, message, _ = fetch(env=far)
    assert error == "HubError"
    assert "is not https" in message
    assert "HASHZOO_ALLOW_HTTP=1" in message
    assert fetch(env=far | {"HASHZOO_ALLOW_HTTP": "1", "HF_HUB_OFFLINE": "1"})[0] == "UnreachableError"


# Faults


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf-hub:zoo/nothing", "The Hub has no zoo/nothing at main, or you may not see it"),
        ("hf-hub:zoo/demo@v9", "no such branch, tag or commit"),
        ("hf-hub:demo", "write org/name"),
        ("hf-hub:zoo/../../evil", "no name of the Hub"),
        ("hf-hub:zoo/demo@../../evil", ""),
    ],
)
def test_names_that_are_none(hub, model, fetch, name, message):
    error, said, _ = fetch(name)
    assert error in ("HubError", "UnreachableError")
    assert message in said
    hub.unknown.clear()


def test_a_repository_that_is_no_model(hub, fetch):
    hub.create("zoo/text")
    hub.commit("zoo/text", {"README.md": b"hello", "config.json": b"{}", "pytorch_model.bin": b"pickle"})
    error, message, _ = fetch("hf-hub:zoo/text")
    assert (error, message) == ("HubError", "zoo/text is no model of hashzoo: it has no model.safetensors.")
    assert not [entry for entry in hub.log if "/resolve/" in entry.path]


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("path", ["/api/models/", "/resolve/.*safetensors"])
def test_a_hub_that_fails(hub, model, fetch, status, path):
    hub.faults.append(Fault(path=path, status=status))
    error, message, _ = fetch()
    assert error == "HubError"
    assert f"The Hub answers {status}" in message
    hub.faults.clear()
    assert whole(fetch()[1])


def test_a_body_that_is_cut(hub, model, fetch):
    hub.faults.append(Fault(method="GET", cut=SIZE // 2, times=1))
    assert whole(fetch()[1])


def test_a_bit_that_flips_on_the_way(hub, model, fetch):
    flipped = Fault(method="GET", flip=SIZE // 2, times=1)
    hub.faults.append(flipped)
    assert whole(fetch()[1])  # downloaded a second time
    assert flipped.hits == 1


def test_bits_that_always_flip(hub, model, fetch):
    hub.faults.append(Fault(method="GET", flip=SIZE // 2))
    error, message, _ = fetch()
    assert error in ("WeightsError", "HubError")
    assert "model.safetensors of zoo/demo" in message
    hub.faults.clear()
    assert whole(fetch()[1])


def test_a_bit_that_flips_in_the_cache(hub, model, fetch):
    folder = fetch()[1]
    weights = Path(folder, "model.safetensors").resolve()
    weights.chmod(0o600)
    changed = bytearray(WEIGHTS)
    changed[100] ^= 1
    weights.write_bytes(changed)
    assert fetch(f"hf-hub:zoo/demo@{model}", env={"HF_HUB_OFFLINE": "1"})[0] == "UnreachableError"
    assert whole(fetch(f"hf-hub:zoo/demo@{model}")[1])  # downloaded anew


def test_another_files_content(hub, model, fetch):
    hub.create("zoo/other")
    hub.commit("zoo/other", {"model.safetensors": WEIGHTS[::-1]})
    if hub.xet:
        swap = Fault(path="safetensors", headers={"X-Xet-Hash": hub.xet_hash("zoo/other", "model.safetensors")})
    else:
        swap = Fault(method="GET", body=lambda body: WEIGHTS[::-1] if len(body) == len(WEIGHTS) else body)
    hub.faults.append(swap)
    error, message, _ = fetch()
    assert error in ("WeightsError", "HubError")
    assert "model.safetensors of zoo/demo" in message


# A hostile hub


@pytest.mark.parametrize(
    "fault",
    [
        {"headers": {"ETag": '"../../../evil"', "X-Linked-Etag": '"../../../evil"'}},
        {"headers": {"X-Repo-Commit": "../../../evil"}},
        {"headers": {"X-Linked-Size": str(50_000_000_000)}},
    ],
    ids=["etag", "commit", "50 GB"],
)
def test_headers_that_lie(hub, model, fetch, client, fault):
    before = outside(client)
    hub.faults.append(Fault(path="/resolve/.*safetensors", **fault))
    error, message, _ = fetch()
    assert error == "HubError"
    assert "do not trust it" in message or "did not get through" in message
    assert outside(client) == before
    assert not list(client.home.rglob("*evil*"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"config.json"', b'"../config.json"', "it has no config.json"),
        (b'"size": 60000', b'"size": 50000000000', "more than the 9 GB"),
        (hashlib.sha256(WEIGHTS).hexdigest().encode(), b"../evil", "no hash or size"),
    ],
    ids=["name", "50 GB", "hash"],
)
def test_listings_that_lie(hub, model, fetch, client, old, new, message):
    hub.faults.append(Fault(path="/api/models/zoo/demo", body=lambda body: body.replace(old, new)))
    error, said, _ = fetch()
    assert error == "HubError"
    assert message in said
    assert not list(client.home.rglob("*evil*"))


# Kills


def test_killed_in_a_download(hub, model, fetch, client):
    hub.faults.append(Fault(method="GET", stall=SIZE // 2, delay=30.0, times=1))
    process = client.start(FETCH, "hf-hub:zoo/demo")
    deadline = time.monotonic() + 60
    while not hub.faults[0].hits and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    hub.faults.clear()
    assert fetch(env={"HF_HUB_OFFLINE": "1"})[0] == "UnreachableError"
    assert whole(fetch()[1])


HOSTILE = """
import sys
import hashzoo
for name in sys.argv[1:]:
    try:
        hashzoo.load(name, device="cpu")
    except hashzoo.HashzooError as error:
        print(type(error).__name__, error)
"""


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("hub", [False], indirect=True, ids=["http"])
def test_nothing_that_comes_is_executed(hub, client, tmp_path):
    mark = tmp_path / "executed"
    weights = pickle.dumps(Touch(mark))
    config = json.loads((shipped_folder() / "dsbh-cnn3-cifar10-48bit" / "config.json").read_text())
    config["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    card = f'---\nlicense: !!python/object/apply:os.system ["touch {mark}"]\n---\n'.encode()
    for name, changes in {
        "pickle": {},
        "path": {"backbone": {"name": "os:system", "args": {"command": f"touch {mark}"}}},
        "more": {"auto_map": {"AutoModel": "model.Model"}},
    }.items():
        text = json.dumps(config | changes).encode()
        hub.create(f"zoo/{name}")
        hub.commit(
            f"zoo/{name}", {"config.json": text, "model.safetensors": weights, "README.md": card, "model.py": b"1/0"}
        )
    said = client(HOSTILE, "hf-hub:zoo/pickle", "hf-hub:zoo/path", "hf-hub:zoo/more").stdout.splitlines()
    assert [line.partition(" ")[0] for line in said] == ["WeightsError", "UnknownNameError", "ConfigError"]
    assert "is no whole safetensors file" in said[0]
    assert "No backbone is named 'os:system'" in said[1]
    assert "'auto_map' is wrong" in said[2]
    assert not mark.exists()
