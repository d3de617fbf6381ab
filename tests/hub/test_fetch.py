"""Fetching models from a Hub: whole and checked, or refused with a sentence; the client runs in processes of its own."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pickle
import pty
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from hashzoo.zoo.names import shipped_folder

from .server import Fault

SIZE = 60_000
CONFIG = b'{"name": "demo"}'
WEIGHTS = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(SIZE // 32))
MODEL = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "results.json": b"{}", "README.md": b"# demo\n"}
FETCH = """
import json, os, re, sys, time, warnings
from hashzoo.errors import HashzooError
from hashzoo.zoo import hub
assert "torch" not in sys.modules
hub.PATIENCE = float(os.environ.get("TEST_PATIENCE", hub.PATIENCE))
said = []
warnings.showwarning = lambda message, *rest, **more: said.append(str(message))
pinned = json.loads(sys.argv[2]) if len(sys.argv) > 2 else None
began = time.monotonic()
try:
    told = [None, str(hub.fetch(*hub.parse(sys.argv[1]), pinned=pinned).folder), said]
except HashzooError as error:
    told = [type(error).__name__, str(error), said]
megabytes = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) >> 10
print(json.dumps([*told, time.monotonic() - began, megabytes]))
"""
without_xet = pytest.mark.parametrize("hub", [False], indirect=True, ids=["http"])
# what a Python process is started through, so that it meets another machine
WITHOUT_A_NETWORK = ("unshare", "--map-root-user", "--net")
ON_A_SMALL_DISK = ("unshare", "--map-root-user", "--mount", "sh", "-c")
NOT_ALMIGHTY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def works(*command):
    """Say whether this machine lets us do that."""
    try:
        return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def model(hub):
    """Put a model on the hub; give its commit."""
    hub.create("zoo/demo")
    commit = hub.commit("zoo/demo", MODEL)
    hub.tag("zoo/demo", "v1", commit)
    return commit


@pytest.fixture
def fetch(client):
    """Fetch in a process of its own: (name of the error or None, folder or message, warnings).

    `fetch.seconds` it took, and `fetch.megabytes`.
    """

    def fetch(name="hf-hub:zoo/demo", *more, **options):
        *told, fetch.seconds, fetch.megabytes = json.loads(client(FETCH, name, *more, **options).stdout)
        return told

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
    asked = len(hub.log)
    assert whole(fetch(f"hf-hub:zoo/demo@{model}", pinned)[1])
    assert len(hub.log) == asked  # nor a cached one any request
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
    ways = [({"HF_HUB_OFFLINE": "1"}, ()), (no_way, ())]
    if works(*WITHOUT_A_NETWORK):
        ways += [({"HF_ENDPOINT": "https://huggingface.co"}, WITHOUT_A_NETWORK)]
    for env, through in ways:
        error, message, _ = fetch("hf-hub:zoo/other", env=env, through=through)
        assert error == "UnreachableError"
        assert (
            "zoo/other is not in the cache: go online, put its folder under $HASHZOO_PATH, or load 'local-dir:"
            in message
        )
        assert fetch.seconds < 1  # the client alone would try for 23 s


def test_a_revision_that_is_renamed(hub, model, fetch):
    folder = fetch("hf-hub:zoo/demo@v1")[1]
    hub.repos["zoo/demo"].tags["first"] = hub.repos["zoo/demo"].tags.pop("v1")
    error, message, _ = fetch("hf-hub:zoo/demo@v1")
    assert (error, "zoo/demo at v1: no such branch, tag or commit" in message) == ("HubError", True)
    for name in ("hf-hub:zoo/demo@first", f"hf-hub:zoo/demo@{model}"):
        assert fetch(name)[:2] == [None, folder]
    assert fetch("hf-hub:zoo/demo@v1", env={"HF_HUB_OFFLINE": "1"})[1] == folder


def test_progress_on_a_terminal(hub, model, client):
    """A bar with the size on a terminal; in a pipe none."""
    environment = client.environment(None, {"TERM": "xterm"})
    del environment["HF_HUB_DISABLE_PROGRESS_BARS"]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    fetch = [sys.executable, "-m", "hashzoo", "fetch", f"hf-hub:zoo/demo@{model}"]
    done = subprocess.run(fetch, env=environment, stdout=subprocess.PIPE, stderr=theirs, check=True, text=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "100%" in shown and "model.safetensors" in shown and "60.0k" in shown
    assert f"hf-hub:zoo/demo@{model}: 0.1 MB in {client.home}" in done.stdout
    environment["HF_HOME"] = str(client.home / "other")
    done = subprocess.run(fetch, env=environment, capture_output=True, check=True, text=True)
    assert not done.stderr


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


@pytest.mark.skipif(not works(*NOT_ALMIGHTY), reason="root may write anywhere, and cannot forgo that here")
def test_a_cache_that_cannot_be_written(hub, model, fetch, client):
    folder = fetch()[1]
    folders = [client.home, *(path for path in client.home.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o500)
    assert fetch(through=NOT_ALMIGHTY)[:2] == [None, folder]
    hub.commit("zoo/demo", {"config.json": b"{}"})
    for home in (client.home, client.home / "no"):
        error, message, _ = fetch(through=NOT_ALMIGHTY, env={"HF_HOME": home})
        assert error == "HubError"
        assert f"cannot be kept in {home}/hub ({os.strerror(errno.EACCES)}); set HF_HOME to another place" in message
    assert fetch(f"hf-hub:zoo/demo@{model}", through=NOT_ALMIGHTY)[:2] == [None, folder]
    for path in folders:
        path.chmod(0o700)


@pytest.mark.skipif(not works(*ON_A_SMALL_DISK, "true"), reason="a small disk cannot be mounted here")
def test_a_full_disk(hub, model, client):
    big = hub.commit("zoo/demo", {"model.safetensors": WEIGHTS * 10})
    client.home.mkdir()
    run = f'"$@" hf-hub:zoo/demo@{model}; "$@" hf-hub:zoo/demo@{big}; HF_HUB_OFFLINE=1 "$@" hf-hub:zoo/demo@{model}'
    disk = (*ON_A_SMALL_DISK, f'mount -t tmpfs -o size=400k none "$HF_HOME" && {{ {run}; }}', "sh")
    first, second, again = map(json.loads, client(FETCH, through=disk).stdout.splitlines())
    assert first[0] is None
    assert second[0] == "HubError"
    assert f"cannot be kept in {client.home}/hub ({os.strerror(errno.ENOSPC)}); set HF_HOME" in second[1]
    assert again[:2] == first[:2]  # what was there is there


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


CALLS = ["/revision/main$", "/resolve/.*config.json", "/resolve/.*safetensors", "^/lfs/.*safetensors"]


def test_a_hub_that_fails_at_any_call(hub, client):
    said = []
    for number, path in enumerate(CALLS):
        repo, files = f"zoo/model-{number}", MODEL | {"model.safetensors": WEIGHTS + bytes([number])}
        files["config.json"] += b" " * number  # content that the cache does not know from another repository
        hub.commit(repo, files)
        for status in (401, 403, 404, 500, 503):
            hub.faults[:] = [Fault("GET", path, status=status)]
            code, message = client.hashzoo("fetch", f"hf-hub:{repo}")
            said.append(message)
            case = (path, status, message)
            assert hub.faults[0].hits and code == 2, case
            what = (
                repo
                if "revision" in path
                else f"{'config.json' if 'config' in path else 'model.safetensors'} of {repo}"
            )
            expected = f"refuses {what} at" if status in (401, 403) else f"answers {status} for {what} at"
            assert expected in message, case
        hub.faults.clear()
        code, message = client.hashzoo("fetch", f"hf-hub:{repo}", "--json")
        assert code == 0, message
        assert whole(json.loads(message)[0]["folder"], files)
    hub.faults[:] = [Fault("GET", "/api/models$", status=503)]
    code, message = client.hashzoo("list", "--hub")
    assert (code, "The Hub answers 503 for the list of models" in message) == (2, True)
    assert "hf_" not in "".join(said)


def test_a_body_that_is_cut(hub, model, fetch):
    hub.faults.append(Fault(method="GET", cut=SIZE // 2, times=1))
    assert whole(fetch()[1])


def test_a_bit_that_flips_on_the_way(hub, model, fetch):
    flipped = Fault(method="GET", flip=SIZE // 2, times=1)
    hub.faults.append(flipped)
    assert whole(fetch()[1])  # downloaded a second time
    assert flipped.hits == 1


@pytest.mark.parametrize("harm", [{"flip": SIZE // 2}, {"cut": 100}, {"short": 100}], ids=["flipped", "cut", "short"])
def test_bytes_that_are_always_wrong(hub, model, client, harm):
    hub.faults.append(Fault(method="GET", path="safetensors|xorbs", **harm))
    code, message = client.hashzoo("fetch", "hf-hub:zoo/demo")
    assert hub.faults[0].hits
    assert (code, "model.safetensors of zoo/demo" in message) == (2, True), message
    if "flip" in harm:
        assert "is not the published one (its hash differs, downloaded twice)" in message
    hub.faults.clear()
    code, message = client.hashzoo("fetch", "hf-hub:zoo/demo", "--json")
    assert code == 0, message
    assert whole(json.loads(message)[0]["folder"])


def test_a_bit_that_flips_in_the_cache(hub, model, fetch):
    folder = fetch()[1]
    weights = Path(folder, "model.safetensors").resolve()
    weights.chmod(0o600)
    changed = bytearray(WEIGHTS)
    changed[100] ^= 1
    weights.write_bytes(changed)
    error, message, _ = fetch(f"hf-hub:zoo/demo@{model}", env={"HF_HUB_OFFLINE": "1"})
    assert error == "UnreachableError"
    assert "zoo/demo is not whole in the cache (model.safetensors is missing or damaged)" in message
    assert whole(fetch(f"hf-hub:zoo/demo@{model}")[1])  # downloaded anew


def test_another_files_content(hub, model, fetch):
    hub.create("zoo/other")
    hub.commit("zoo/other", {"model.safetensors": WEIGHTS[::-1]})
    hub.faults.append(Fault("GET", body=lambda body: WEIGHTS[::-1] if len(body) == len(WEIGHTS) else body))
    error, message, _ = fetch()
    assert error == "WeightsError"
    assert "model.safetensors of zoo/demo" in message


# A hostile hub


@pytest.mark.parametrize(
    "fault",
    [
        {"headers": {"ETag": '"../../../evil"'}},
        {"headers": {"X-Linked-Etag": '"../../../evil"'}},
        {"headers": {"X-Repo-Commit": "../../../evil"}},
        {"headers": {"X-Linked-Size": str(50_000_000_000)}},
        {"headers": {"Content-Length": str(50_000_000_000)}, "method": "GET"},
        {"headers": {"X-Xet-Hash": "../../../evil", "Link": '<http://127.0.0.1:9/>; rel="xet-auth"'}},
    ],
    ids=["etag", "linked etag", "commit", "50 GB", "50 GB come", "xet hash"],
)
def test_headers_that_lie(hub, model, fetch, client, fault):
    before = outside(client)
    hub.faults.append(Fault(path="(resolve|lfs)/.*safetensors", **fault))
    error, message, _ = fetch()
    if "X-Xet-Hash" in fault["headers"]:
        assert whole(message)  # Xet is not asked
    else:
        assert error == "HubError"
        assert "do not trust it" in message
    assert outside(client) == before
    assert not list(client.home.rglob("*evil*"))


@pytest.mark.parametrize("spare", [0, 1, 2])
@pytest.mark.parametrize(
    "headers",
    [{"ETag": '"../../../../.bashrc"', "X-Linked-Etag": '"../../../../.bashrc"'}, {"X-Repo-Commit": "../../../.."}],
    ids=["etag", "commit"],
)
def test_answers_that_change(hub, model, fetch, client, headers, spare):
    precious = [folder / ".bashrc" for folder in (client.home.parent, client.user_home)]
    for path in precious:
        path.write_text("mine")
    before = outside(client)
    hub.faults.append(Fault(path="/resolve/.*(config.json|safetensors)", headers=headers, spare=spare))
    error, message, _ = fetch()
    assert error == "HubError" if error else whole(message)
    assert outside(client) == before
    assert all(path.read_text() == "mine" for path in precious)
    home = client.home / "hub" / "models--zoo--demo"
    for path in home.rglob("*"):
        assert path.resolve().is_relative_to(client.home.resolve())


def test_a_reused_etag_overwrites_nothing(hub, model, fetch):
    folder = fetch()[1]
    etag = {"ETag": f'"{hub.repos["zoo/demo"].commits[model].files["config.json"].etag}"'}
    hub.commit("zoo/demo", {"config.json": b'{"name": "evil"}'})
    hub.faults.append(Fault(path="/resolve/.*config.json", headers=etag))
    assert whole(fetch()[1], MODEL | {"config.json": b'{"name": "evil"}'})
    assert fetch(f"hf-hub:zoo/demo@{model}", env={"HF_HUB_OFFLINE": "1"})[1] == folder
    assert whole(folder)


@without_xet
def test_a_cache_that_leads_outside(hub, model, fetch, tmp_path):
    """A link in the cache to a file with the right bytes somewhere else is replaced; the file stays."""
    path = Path(fetch()[1], "config.json")
    (tmp_path / "elsewhere").write_bytes(CONFIG)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert fetch(f"hf-hub:zoo/demo@{model}", env={"HF_HUB_OFFLINE": "1"})[0] == "UnreachableError"
    assert whole(fetch()[1])
    assert path.resolve().is_relative_to(tmp_path / "hf-home")
    assert (tmp_path / "elsewhere").read_bytes() == CONFIG


def bomb(megabytes):
    """About one thousandth of that, which gzip expands."""
    packer = zlib.compressobj(9, wbits=31)
    head, block = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return head + block * (megabytes - 1)


@without_xet
@pytest.mark.parametrize("path", ["/api/models/zoo/demo", "/resolve/.*config.json", "^/lfs/"])
@pytest.mark.parametrize("body", ["packed", "endless"])
def test_answers_that_are_too_large(hub, model, fetch, path, body):
    data, packed = (bomb(2000), {"Content-Encoding": "gzip"}) if body == "packed" else (b" " * (100 << 20), {})
    hub.faults.append(Fault("GET", path, body=data, headers=packed))
    error, message, _ = fetch()
    assert error == "HubError"
    assert "do not trust it" in message
    assert fetch.megabytes < 150  # the modules alone have about 60


@without_xet
def test_sizes_that_are_none(hub, model, client):
    def fetch(body):
        hub.faults[:] = [Fault(path="/api/models/zoo/demo", body=body)]
        code, said = client.hashzoo("fetch", "hf-hub:zoo/demo")
        assert (code, said.startswith("Error: ")) == (2, True), (body, said)
        return said

    for size in (b"-1", b"true", b"6e4", b'"60000"', b"null", b"[]", b"9" * 5000):
        assert "no hash or size" in fetch(lambda body, size=size: body.replace(b"60000", size))
    said = fetch(lambda body: body.replace(b'"size": %d' % len(CONFIG), b'"size": 2000000'))
    assert "config.json of zoo/demo has 2 MB, more than the 1 MB that hashzoo takes" in said
    for body in (b"[", b"[]", b"[" * 100_000, b'{"sha": 3}', b'{"sha": "%s"}' % model.encode(), b"\xff", b"null"):
        fetch(body)
    assert "twice" in fetch(lambda body: body.replace(b"results.json", b"config.json"))
    assert not [entry for entry in hub.log if "/resolve/" in entry.path]


@without_xet
def test_redirects_that_never_end(hub, model, fetch):
    hub.faults.append(Fault("GET", "/api/models/zoo/demo", redirect=f"{hub.url}/api/models/zoo/demo/again"))
    error, message, _ = fetch()
    assert (error, "sends on over 10 times" in message) == ("HubError", True)
    assert hub.faults[0].hits == 10
    hub.faults[:] = [Fault("GET", "/api/models/zoo/demo", redirect="http://hub.example.org/")]
    error, message, _ = fetch()
    assert (error, "http://hub.example.org is not https" in message) == ("HubError", True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"config.json"', b'"../config.json"', "it has no config.json"),
        (b'"size": 60000', b'"size": 50000000000', "more than the 8,590 MB"),
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


# A silent hub

SILENT = [
    Fault(path="/api/models/zoo/demo", delay=60.0),
    Fault(path="/resolve/.*config.json", delay=60.0),
    Fault(path="(safetensors|xorbs)", stall=SIZE // 2, delay=60.0),
    Fault(path="/api/models/zoo/demo", drip=0.2),
    Fault(path="(safetensors|xorbs)", drip=0.2),
]
SOON = {"TEST_PATIENCE": 2, "HF_HUB_DOWNLOAD_TIMEOUT": 1}


@pytest.mark.parametrize("fault", SILENT, ids=["listing", "file", "content", "listing drips", "content drips"])
def test_a_hub_that_is_silent(hub, model, fetch, fault):
    hub.faults.append(replace(fault))
    error, message, _ = fetch(env=SOON)
    assert error == "UnreachableError"
    assert "The Hub is silent or too slow for" in message
    assert fetch.seconds < 4
    hub.faults.clear()
    assert whole(fetch()[1])


@without_xet
def test_a_hub_that_says_no_word(fetch):
    """It takes the connection and says nothing, or a header without end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = SOON | {"HF_ENDPOINT": f"http://127.0.0.1:{listener.getsockname()[1]}"}

        def drip():
            with contextlib.suppress(OSError):
                connection = listener.accept()[0]
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Endless: ")
                while True:
                    connection.sendall(b"a")
                    time.sleep(0.1)

        for talk in (None, drip):
            if talk:
                threading.Thread(target=talk, daemon=True).start()
            error, message, _ = fetch(env=silent)
            assert error == "UnreachableError"
            assert "zoo/demo is not in the cache: go online" in message
            assert fetch.seconds < 4


@without_xet
def test_a_slow_hub_that_goes_on(hub, model, fetch):
    """What comes faster than the floor is waited for, however long it takes."""
    hub.faults.append(Fault(path="/resolve/.*config.json", drip=0.2))
    error, folder, _ = fetch(env={"TEST_PATIENCE": 6, "HF_HUB_DOWNLOAD_TIMEOUT": 1})
    assert error is None
    assert fetch.seconds > 3
    assert whole(folder)


def test_what_is_cached_waits_for_nobody(hub, model, fetch):
    folder = fetch()[1]
    hub.faults.append(Fault(delay=60.0))
    assert fetch()[:2] == [None, folder]
    assert fetch.seconds < 3
    asked = len(hub.log)
    assert fetch(f"hf-hub:zoo/demo@{model}")[:2] == [None, folder]
    assert (fetch.seconds < 1, len(hub.log)) == (True, asked)


# Kills


@pytest.mark.parametrize(
    "fault",
    [{"path": "safetensors|xorbs", "stall": SIZE // 2}, {"path": "results.json"}],  # before or after what is required
    ids=["weights", "results"],
)
def test_killed_in_a_download(hub, model, fetch, client, fault):
    hub.faults.append(Fault(method="GET", delay=30.0, times=1, **fault))
    process = client.start(FETCH, "hf-hub:zoo/demo")
    deadline = time.monotonic() + 60
    while not hub.faults[0].hits and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    hub.faults.clear()
    for name in ("hf-hub:zoo/demo", f"hf-hub:zoo/demo@{model}"):
        assert fetch(name, env={"HF_HUB_OFFLINE": "1"})[0] == "UnreachableError"  # a part is no model
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


@without_xet
def test_nothing_that_comes_is_executed(hub, client, tmp_path):
    mark = tmp_path / "executed"
    weights = pickle.dumps(Touch(mark))
    config = json.loads((shipped_folder() / "dsbh-cnn3-cifar10-48bit" / "config.json").read_text())
    config["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    card = f'---\nlicense: !!python/object/apply:os.system ["touch {mark}"]\n---\n'.encode()
    for name, changes in {
        "pickle": {},
        "path": {"backbone": {"name": "os.system", "args": {"command": f"touch {mark}"}}},
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
    assert "No backbone is named 'os.system'" in said[1]
    assert "'auto_map' is no key" in said[2]
    assert not mark.exists()
