"""What the real client of the Hugging Face Hub must find at the test hub, with and without Xet."""

import hashlib
import http.client
import json
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

from .server import Fault, Hub, chunks_of

README = b"""---
license: apache-2.0
library_name: hashzoo
pipeline_tag: image-feature-extraction
tags: [hashzoo, deep-hashing]
datasets: [cifar10]
---
# A model
"""
WEIGHTS = np.random.default_rng(0).standard_normal(100_000).astype(np.float32).tobytes()
REGULAR = np.sin(np.arange(100_000, dtype=np.float32)).tobytes()  # Xet packs such bytes in groups of four
TEXT = b"a line that comes again and again\n" * 20_000  # and these by LZ4
EXPECT = """
import sys
from contextlib import contextmanager
from pathlib import Path
from huggingface_hub import *
from huggingface_hub.errors import *
api = HfApi()

@contextmanager
def expect(error, status=None):
    try:
        yield
    except error as raised:
        assert status is None or raised.response.status_code == status, repr(raised)
    else:
        raise AssertionError(f"{error.__name__} was not raised")
"""


def call(hub, method, path, body=None, origin="hub", **headers):
    """Ask without the Hugging Face client; return status, headers and body, or raise as http.client does."""
    where = urlsplit(hub.url if origin == "hub" else hub.cdn_url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def from_cdn(hub):
    """Return what the log has of requests for bytes of large files."""
    return [entry for entry in hub.log if entry.origin == "cdn" and entry.path.startswith(("/lfs/", "/xorbs/"))]


# The real client


def test_client_writes(hub, client, tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep" / "er").mkdir(parents=True)
    content = {
        "README.md": README, "config.json": b'{"bits": 48}', "model.safetensors": WEIGHTS, "regular.bin": REGULAR,
        "text.txt": TEXT, "deep/er/a.txt": b"a", "deep/b.txt": b"", "tiny.safetensors": b"x",
    }  # fmt: skip
    for path, data in content.items():
        (folder / path).write_bytes(data)
    code = """
folder = sys.argv[1]
me = api.whoami()
assert me["name"] == "ann" and me["orgs"][0]["name"] == "zoo" and me["auth"]["accessToken"]["role"] == "write"
url = api.create_repo("zoo/demo")
assert url == api.create_repo("zoo/demo", exist_ok=True) and url.repo_id == "zoo/demo"
with expect(HfHubHTTPError, 409):
    api.create_repo("zoo/demo")
assert api.create_repo("mine", private=True).repo_id == "ann/mine" and api.model_info("ann/mine").private
with expect(HfHubHTTPError, 403):
    api.create_repo("bob/demo")
first = api.upload_folder(folder_path=folder, repo_id="zoo/demo", commit_message="All of it", commit_description="At once")
assert first.oid == api.model_info("zoo/demo").sha and first.commit_url.endswith(first.oid)
again = api.upload_folder(folder_path=folder, repo_id="zoo/demo")
assert again.oid == first.oid, "unchanged files were committed"
longer = Path(folder, "longer.safetensors")
longer.write_bytes(Path(folder, "model.safetensors").read_bytes() + b"tail")
second = api.create_commit("zoo/demo", commit_message="Changes", parent_commit=first.oid, operations=[
    CommitOperationAdd("in_memory.safetensors", b"y" * 30_000), CommitOperationAdd("longer.safetensors", longer),
    CommitOperationDelete("deep/", is_folder=True),
    CommitOperationDelete("config.json"), CommitOperationCopy("model.safetensors", "copy.safetensors"),
])
with expect(HfHubHTTPError, 412):
    api.create_commit("zoo/demo", commit_message="Late", parent_commit=first.oid,
                      operations=[CommitOperationAdd("late.txt", b"late")])
pull = api.upload_file(path_or_fileobj=b"new", path_in_repo="new.txt", repo_id="zoo/demo", create_pr=True)
assert pull.pr_num == 1 and pull.pr_revision == "refs/pr/1", pull
assert "new.txt" in api.list_repo_files("zoo/demo", revision="refs/pr/1")
for text in ("---\\ntags: [a\\n---\\n", "---\\ntags: {a: b}\\n---\\n"):
    with expect(ValueError):
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id="zoo/demo")
api.create_branch("zoo/demo", branch="dev/x", revision=first.oid)
with expect(HfHubHTTPError, 409):
    api.create_branch("zoo/demo", branch="dev/x")
api.upload_file(path_or_fileobj=b"dev", path_in_repo="dev.txt", repo_id="zoo/demo", revision="dev/x")
api.create_tag("zoo/demo", tag="v1", revision=first.oid)
with expect(HfHubHTTPError, 409):
    api.create_tag("zoo/demo", tag="v1")
refs = api.list_repo_refs("zoo/demo", include_pull_requests=True)
assert {ref.name for ref in refs.branches} == {"main", "dev/x"} and refs.pull_requests[0].ref == "refs/pr/1"
assert [(ref.name, ref.ref, ref.target_commit) for ref in refs.tags] == [("v1", "refs/tags/v1", first.oid)]
commits = api.list_repo_commits("zoo/demo")
assert [commit.title for commit in commits] == ["Changes", "All of it", "initial commit"], commits
assert commits[1].message == "At once" and commits[1].authors == ["ann"]
print(first.oid, second.oid)
"""
    first, second = client(EXPECT + code, folder, token="hf_ann_write").stdout.split()
    start = hub.files("zoo/demo", next(iter(hub.repos["zoo/demo"].commits)))
    assert list(start) == [".gitattributes"]
    assert hub.files("zoo/demo", "v1") == hub.files("zoo/demo", first) == start | content
    kept = {path: data for path, data in content.items() if "deep" not in path and path != "config.json"}
    changed = start | kept | {"in_memory.safetensors": b"y" * 30_000, "copy.safetensors": WEIGHTS}
    changed["longer.safetensors"] = WEIGHTS + b"tail"
    assert hub.files("zoo/demo") == changed and hub.head("zoo/demo") == second
    assert hub.files("zoo/demo", "refs/pr/1") == changed | {"new.txt": b"new"}
    assert hub.files("zoo/demo", "dev/x") == start | content | {"dev.txt": b"dev"}
    uploads = {
        entry.path.rsplit("/", 1)[0] for entry in hub.log if entry.origin == "cdn" and entry.method in ("PUT", "POST")
    }
    assert ("/v1/xorbs/default" in uploads) == hub.xet
    packed = {xorb[start + 4] for xorb in hub.xorbs.values() for start, _ in chunks_of(xorb)}
    assert not hub.xet or packed == {0, 1, 2}, "a way to pack that was not tried"
    assert "hf_ann_write" not in {entry.token for entry in hub.log if entry.origin == "cdn"}


def test_client_lists(hub, client):
    for name in ("zoo/alpha", "zoo/beta", "bob/alpha-2"):
        hub.commit(name, {"README.md": README, "a/b/c.txt": b"c", "a/d.txt": b"d", "w.safetensors": WEIGHTS})
    hub.commit("zoo/beta", {"README.md": b"no metadata", "a/d.txt": b"D"}, "Later")
    hub.repos["zoo/alpha"].likes, hub.repos["bob/alpha-2"].likes = 1, 5
    hub.create("bob/secret", private=True)
    hub.page = 2
    code = """
def ids(**wanted):
    return [model.id for model in api.list_models(**wanted)]
assert ids() == ["zoo/alpha", "zoo/beta", "bob/alpha-2"], ids()
assert ids(limit=3, sort="likes") == ["bob/alpha-2", "zoo/alpha", "zoo/beta"]
assert ids(sort="created_at") == ["bob/alpha-2", "zoo/beta", "zoo/alpha"] and ids(sort="last_modified")[0] == "zoo/beta"
assert ids(author="zoo") == ["zoo/alpha", "zoo/beta"] and ids(search="ALPHA", limit=1) == ["zoo/alpha"]
assert ids(filter=["hashzoo", "dataset:cifar10"]) == ["zoo/alpha", "bob/alpha-2"] and ids(filter=["hashzoo", "x"]) == []
assert ids(pipeline_tag="image-feature-extraction", author="zoo") == ["zoo/alpha"] and ids(gated=True) == []
model = next(iter(api.list_models(author="bob", full=True, cardData=True)))
assert model.card_data.license == "apache-2.0" and "w.safetensors" in [file.rfilename for file in model.siblings]
model = next(iter(api.list_models(author="bob")))
assert model.card_data is None and model.siblings is None and "hashzoo" in model.tags and model.likes == 5
model = next(iter(api.list_models(author="bob", expand=["cardData", "sha"])))
assert model.card_data.tags == ["hashzoo", "deep-hashing"] and len(model.sha) == 40 and model.likes is None
info = api.model_info("zoo/alpha", files_metadata=True)
assert info.sha == sys.argv[1] and info.library_name == "hashzoo" and info.card_data.datasets == ["cifar10"]
sizes = {file.rfilename: (file.size, file.lfs and file.lfs.sha256) for file in info.siblings}
assert sizes["a/d.txt"] == (1, None) and sizes["w.safetensors"] == (400_000, sys.argv[2]), sizes
tree = {entry.path: entry for entry in api.list_repo_tree("zoo/beta", recursive=True, expand=True)}
assert sorted(tree) == [".gitattributes", "README.md", "a", "a/b", "a/b/c.txt", "a/d.txt", "w.safetensors"], tree
assert type(tree["a"]).__name__ == "RepoFolder" and tree["w.safetensors"].lfs.sha256 == sys.argv[2]
assert {path for path in tree if tree[path].last_commit.title == "Later"} == {"README.md", "a", "a/d.txt"}
assert [entry.path for entry in api.list_repo_tree("zoo/beta", "a")] == ["a/b", "a/d.txt"]
with expect(RemoteEntryNotFoundError):
    list(api.list_repo_tree("zoo/beta", "none"))
found = api.get_paths_info("zoo/beta", ["a", "w.safetensors", "none"], expand=True)
assert [entry.path for entry in found] == ["a", "w.safetensors"] and found[1].size == 400_000, found
assert api.repo_exists("zoo/beta") and not api.repo_exists("bob/secret") and not api.repo_exists("bob/none")
assert api.revision_exists("zoo/beta", sys.argv[1][:8]) is False and api.file_exists("zoo/beta", "a/d.txt")
"""
    client(EXPECT + code, hub.head("zoo/alpha"), hashlib.sha256(WEIGHTS).hexdigest())
    assert any("cursor" in entry.query for entry in hub.log)


def test_client_downloads(hub, client, tmp_path):
    old = hub.commit("zoo/demo", {"config.json": b"{}", "a/b.txt": b"b", "w.safetensors": WEIGHTS, "t.txt": TEXT})
    hub.tag("zoo/demo", "v1", old)
    hub.commit("zoo/demo", {"config.json": b'{"new": 1}', "gone.txt": b""})
    new = hub.commit("zoo/demo", {"gone.txt": None})
    code = """
old, new = sys.argv[1:3]
path = Path(hf_hub_download("zoo/demo", "config.json", revision="v1"))
assert path.read_bytes() == b"{}" and path.parent.name == old
folder = Path(snapshot_download("zoo/demo"))
assert folder.name == new and (folder / "config.json").read_bytes() == b'{"new": 1}'
assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == {
    ".gitattributes", "config.json", "a/b.txt", "w.safetensors", "t.txt"}
assert (folder / "w.safetensors").resolve().stat().st_size == 400_000
local = Path(snapshot_download("zoo/demo", revision=old, local_dir=sys.argv[3], allow_patterns=["*.json", "w.*"]))
assert sorted(file.name for file in local.iterdir() if file.is_file()) == ["config.json", "w.safetensors"]
assert api.verify_repo_checksums("zoo/demo").checked_count == 5
meta = get_hf_file_metadata(hf_hub_url("zoo/demo", "w.safetensors"))
assert meta.size == 400_000 and meta.commit_hash == new and len(meta.etag) == 64
with expect(RemoteEntryNotFoundError):
    hf_hub_download("zoo/demo", "none.txt")
with expect(RepositoryNotFoundError):
    hf_hub_download("zoo/none", "config.json")
with expect(RevisionNotFoundError):
    hf_hub_download("zoo/demo", "config.json", revision="none")
files = HfFileSystem()
assert sorted(files.glob("zoo/demo/**/*.txt")) == ["zoo/demo/a/b.txt", "zoo/demo/t.txt"]
with files.open("zoo/demo@v1/w.safetensors") as file:
    file.seek(399_000)
    assert file.read() == (folder / "w.safetensors").read_bytes()[399_000:]
"""
    client(EXPECT + code, old, new, tmp_path / "local", token="hf_bob_read")
    snapshot = client.home / "hub" / "models--zoo--demo" / "snapshots" / new
    assert {file.name: file.read_bytes() for file in snapshot.iterdir() if file.is_file()} == {
        path: data for path, data in hub.files("zoo/demo").items() if "/" not in path
    }
    assert from_cdn(hub) and {entry.token for entry in from_cdn(hub)} == {None}
    others = {entry.path for entry in hub.log if entry.origin == "hub" and entry.token != "hf_bob_read"}
    assert others <= {"/api/agent-harnesses"}
    asked = len(hub.log)
    code = "print(snapshot_download('zoo/demo'))"
    assert client(EXPECT + code, env={"HF_HUB_OFFLINE": 1}).stdout.split() == [str(snapshot)]
    assert len(hub.log) == asked


def test_client_rights(hub, client):
    for name in ("zoo/open", "zoo/secret", "zoo/gated", "ann/own"):
        hub.commit(name, {"a.txt": b"a", "w.safetensors": b"w"})
    hub.repos["zoo/secret"].private = True
    hub.repos["zoo/gated"].gated = "manual"
    hub.tokens["hf_bob_write"] = ("bob", "write")
    code = """
def look(**access):
    with expect(RepositoryNotFoundError):
        api.model_info("zoo/secret", **access)
    with expect(RepositoryNotFoundError):
        hf_hub_download("zoo/secret", "a.txt", **access)
    assert api.model_info("zoo/gated", **access).gated == "manual"
    with expect(GatedRepoError):
        hf_hub_download("zoo/gated", "w.safetensors", **access)
    assert {model.id for model in api.list_models(author="zoo", **access)} == {"zoo/open", "zoo/gated"}
look(token=False)
look(token="hf_bob_read")
with expect(HfHubHTTPError, 401):
    api.whoami(token="hf_wrong")
for token, status in ((False, 401), ("hf_bob_write", 403)):
    for size in (1, 20_000):
        with expect(HfHubHTTPError, status):
            api.upload_file(path_or_fileobj=b"b" * size, path_in_repo="b.txt", repo_id="zoo/open", token=token)
assert api.upload_file(path_or_fileobj=b"b", path_in_repo="b.txt", repo_id="zoo/open", token="hf_bob_write",
                       create_pr=True).pr_num == 1
ann = HfApi(token="hf_ann_write")
assert open(ann.hf_hub_download("zoo/secret", "w.safetensors")).read() == "w"
assert open(ann.hf_hub_download("zoo/gated", "w.safetensors")).read() == "w"
assert len(list(ann.list_models(author="zoo"))) == 3
ann.update_repo_settings("zoo/secret", visibility="public", gated="auto")
assert (api.model_info("zoo/secret").private, api.model_info("zoo/secret").gated) == (False, "auto")
ann.create_tag("zoo/open", tag="v1")
ann.delete_tag("zoo/open", tag="v1")
with expect(RevisionNotFoundError):
    ann.delete_tag("zoo/open", tag="v1")
ann.create_branch("zoo/open", branch="dev/x")
ann.delete_branch("zoo/open", branch="dev/x")
ann.delete_repo("own")
"""
    client(EXPECT + code)
    assert set(hub.repos) == {"zoo/open", "zoo/secret", "zoo/gated"}
    assert "b.txt" not in hub.files("zoo/open") and not hub.repos["zoo/open"].tags


def test_client_meets_faults(hub, client):
    hub.commit("zoo/demo", {"cut.safetensors": WEIGHTS, "flip.safetensors": REGULAR, "short.safetensors": TEXT})
    hub.commit("zoo/demo", {"a.txt": b"a", "b.safetensors": WEIGHTS[::-1]})
    sent = r"^/(lfs/.*/{0}|xorbs/{1})"

    def path_of(name):
        xorb = hub.xet_files[hub.xet_hash("zoo/demo", name)][0].xorb if hub.xet else "none"
        return sent.format(name, xorb)

    cut = Fault("GET", path_of("cut.safetensors"), cut=100_000, times=1)
    flip = Fault("GET", path_of("flip.safetensors"), flip=5000)
    short = Fault("GET", path_of("short.safetensors"), short=100)
    evil = Fault("HEAD", "a.txt", headers={"X-Repo-Commit": "../../evil"})
    hub.faults += [cut, flip, short, evil]
    code = """
cut = open(hf_hub_download("zoo/demo", "cut.safetensors"), "rb").read()
flip = open(hf_hub_download("zoo/demo", "flip.safetensors"), "rb").read()
print(cut.hex())
print(flip.hex())
for name, errors in (("short.safetensors", (OSError, RuntimeError)), ("a.txt", (ValueError, OSError))):
    try:
        hf_hub_download("zoo/demo", name)
    except errors as error:
        print(type(error).__name__)
"""
    # A cut connection is mended by the client, if Xet is given a second try.
    lines = client(EXPECT + code, env={"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": 3}).stdout.split()
    assert bytes.fromhex(lines[0]) == WEIGHTS and cut.hits == 1
    received = np.frombuffer(bytes.fromhex(lines[1]), np.uint8)
    different = received ^ np.frombuffer(REGULAR, np.uint8)
    assert np.count_nonzero(different) == 1 and different.max() == 1 and flip.hits, "the client does not look"
    assert short.hits and evil.hits and len(lines) == 4


# What tests do to the hub


@pytest.fixture(scope="module")
def plain():
    """Run one hub for tests that need no client; a test clears what it added."""
    with Hub() as hub:
        hub.commit("zoo/demo", {"a.txt": bytes(range(100)), "w.safetensors": WEIGHTS})
        yield hub


@pytest.fixture
def fault(plain):
    """Set the faults of one test."""

    def add(**facts):
        plain.faults.append(Fault(**facts))
        return plain.faults[-1]

    yield add
    plain.faults.clear()


def test_unknown_routes_answer_501(plain):
    assert call(plain, "GET", "/api/spaces/zoo/demo")[0] == 501
    assert call(plain, "POST", "/api/models/zoo/demo/refs")[0] == 501
    assert call(plain, "GET", "/api/models/zoo/demo", origin="cdn")[0] == 501
    assert call(plain, "POST", "/api/validate-yaml", b"{}")[0] == 500
    assert [line.split(" raised")[0] for line in plain.unknown] == [
        "GET /api/spaces/zoo/demo (hub)", "POST /api/models/zoo/demo/refs (hub)", "GET /api/models/zoo/demo (cdn)",
        "POST /api/validate-yaml (hub)",
    ]  # fmt: skip


def test_log(plain):
    plain.log.clear()
    call(plain, "GET", "/zoo/demo/resolve/main/a%2Etxt?x=1&x=2", Range="bytes=5-9", Authorization="Bearer hf_bob_read")
    (entry,) = plain.log
    assert (entry.method, entry.path, entry.query) == ("GET", "/zoo/demo/resolve/main/a.txt", {"x": ["1", "2"]})
    assert (entry.origin, entry.token, entry.range, entry.status) == ("hub", "hf_bob_read", "bytes=5-9", 206)


@pytest.mark.parametrize(
    ("asked", "start", "end"), [("5-9", 5, 10), ("90-", 90, 100), ("-3", 97, 100), ("95-1000", 95, 100)]
)
def test_ranges(plain, asked, start, end):
    status, headers, body = call(plain, "GET", "/zoo/demo/resolve/main/a.txt", Range=f"bytes={asked}")
    assert (status, body, headers["Content-Range"]) == (206, bytes(range(start, end)), f"bytes {start}-{end - 1}/100")
    assert call(plain, "GET", "/zoo/demo/resolve/main/a.txt", Range="bytes=100-")[0] == 416


def test_large_files_are_on_the_other_origin(plain):
    status, headers, body = call(plain, "GET", "/zoo/demo/resolve/main/w.safetensors")
    assert (status, body, headers["X-Linked-Size"]) == (302, b"", "400000")
    assert headers["Location"].startswith(plain.cdn_url) and plain.cdn_url.startswith("http://localhost:")
    assert call(plain, "GET", urlsplit(headers["Location"]).path, origin="cdn")[2] == WEIGHTS


def test_fault_in_place_of_the_work(plain, fault):
    commits = len(plain.repos["zoo/demo"].commits)
    once = fault(method="POST", path="/commit/main$", status=503, body=b"no", times=1)
    head = {"Authorization": "Bearer hf_ann_write"}
    lines = b'{"key": "header", "value": {"summary": "x"}}\n'
    path = "/api/models/zoo/demo/commit/main"
    assert call(plain, "POST", path, lines, **head)[::2] == (503, b"no") and once.hits == 1
    assert len(plain.repos["zoo/demo"].commits) == commits
    assert call(plain, "POST", path, lines, **head)[0] == 200
    assert len(plain.repos["zoo/demo"].commits) == commits + 1
    fault(path="/refs$", redirect="http://elsewhere.invalid/")
    status, headers, _ = call(plain, "GET", "/api/models/zoo/demo/refs")
    assert (status, headers["Location"]) == (302, "http://elsewhere.invalid/")


def test_fault_in_the_answer(plain, fault):
    fault(path="/refs$", body=lambda body: json.dumps({**json.loads(body), "tags": "none"}).encode())
    refs = json.loads(call(plain, "GET", "/api/models/zoo/demo/refs")[2])
    assert refs["tags"] == "none" and refs["branches"][0]["name"] == "main"
    path = "/zoo/demo/resolve/main/a.txt"
    fault(method="HEAD", path="a.txt", headers={"etag": '"../../x"', "X-Repo-Commit": None, "Content-Length": "9" * 15})
    status, headers, _ = call(plain, "HEAD", path)
    assert (status, headers["ETag"], headers["Content-Length"]) == (200, '"../../x"', "9" * 15)
    assert headers["X-Repo-Commit"] is None and headers.get_all("ETag") == ['"../../x"']
    assert call(plain, "GET", path)[1]["X-Repo-Commit"] == plain.head("zoo/demo")


def test_fault_in_the_bytes(plain, fault):
    path, data = "/zoo/demo/resolve/main/a.txt", bytes(range(100))
    flip = fault(path="a.txt", flip=10, times=1)
    assert call(plain, "GET", path, Range="bytes=0-5")[2] == data[:6] and not flip.hits, "too short to be flipped"
    assert call(plain, "GET", path)[2] == data[:10] + b"\x0b" + data[11:]
    assert call(plain, "GET", path)[2] == data
    fault(path="a.txt", short=7, times=1)
    _, headers, body = call(plain, "GET", path)
    assert body == data[:-7] and headers["Content-Length"] == "93"
    fault(path="a.txt", cut=30, times=1)
    with pytest.raises(http.client.IncompleteRead) as cut:
        call(plain, "GET", path)
    assert cut.value.partial == data[:30]
    fault(method="GET", path="a.txt", headers={"Content-Length": "1000000"}, times=1)
    with pytest.raises(http.client.IncompleteRead) as long:
        call(plain, "GET", path)
    assert long.value.partial == data
    fault(path="a.txt", cut=0, times=1)
    with pytest.raises(http.client.IncompleteRead):
        call(plain, "GET", path)


@pytest.mark.parametrize("stall", [None, 50])
def test_fault_in_time(plain, fault, stall):
    fault(path="a.txt", delay=0.3, stall=stall)
    start = time.monotonic()
    assert call(plain, "GET", "/zoo/demo/resolve/main/a.txt")[2] == bytes(range(100))
    assert time.monotonic() - start >= 0.3


def test_fault_that_moves_a_branch(plain, fault):
    before = plain.head("zoo/demo")
    fault(path="/revision/main$", action=lambda: plain.commit("zoo/demo", {"../evil": b"e"}), times=1)
    facts = json.loads(call(plain, "GET", "/api/models/zoo/demo/revision/main")[2])
    assert facts["sha"] == plain.head("zoo/demo") != before
    assert {"rfilename": "../evil"} in facts["siblings"]
