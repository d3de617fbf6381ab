"""Publishing a model's folder to a Hub, listing it there, and loading it back: the real command line and client."""

import json
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

import hashzoo
from hashzoo.files import LIMITS, sha256
from hashzoo.release.card import BEGIN, END, write_card
from hashzoo.zoo.names import shipped_folder

from .conftest import SHELL, Client
from .server import Fault, Hub

NAME = "dsbh-cnn3-cifar10-48bit"
REPO = f"zoo/{NAME}"
TOKEN = "hf_ann_write"
without_xet = pytest.mark.parametrize("pair", [False], indirect=True, ids=["http"])  # where bytes do not matter


@pytest.fixture(scope="module", params=[False, True], ids=["http", "xet"])
def pair(request, tmp_path_factory):
    """Run a hub and a client of it for all tests here: to start one that publishes takes seconds."""
    with Hub(xet=request.param) as hub:
        client = Client(hub, tmp_path_factory.mktemp("client"))
        yield hub, client
        client.close()


@pytest.fixture
def hub(pair):
    """Give the hub, without repositories; a request it does not know fails the test."""
    pair[0].clear()
    yield pair[0]
    assert not pair[0].unknown, "requests that the test hub does not know"


@pytest.fixture
def client(pair):
    """Give the client."""
    return pair[1]


@pytest.fixture
def folder(tmp_path):
    """Copy a model that ships: a folder of the user's own."""
    return Path(shutil.copytree(shipped_folder() / NAME, tmp_path / NAME))


@pytest.fixture
def publish(client, folder):
    """Publish the folder; give exit code and output, in which no token may be."""

    def publish(*options, repo=REPO, token=TOKEN):
        code, said = client.hashzoo("publish", folder, "--repo", repo, *options, token=token)
        assert "hf_" not in said
        return code, said

    return publish


def chunk(kind, body):
    """A chunk of a PNG; the first ends at byte 33."""
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


def another_picture(folder):
    """Make the folder's plot one that no hub has: of another brightness."""
    data = (folder / "pr-curve.png").read_bytes()
    rest = data[33 + 16 :] if data[37:41] == b"gAMA" else data[33:]
    (folder / "pr-curve.png").write_bytes(data[:33] + chunk(b"gAMA", secrets.token_bytes(4)) + rest)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def published(hub, repo=REPO):
    return {name: data for name, data in hub.files(repo).items() if name != ".gitattributes"}


def asked(hub, path):
    return [entry for entry in hub.log if path in entry.path]


# What works


def test_publish_and_load(hub, client, folder, publish):
    code, said = publish()
    assert code == 0, said
    assert "Nothing was sent; 8 files would change" in said
    assert f'hashzoo.load("hf-hub:{REPO}")' in said  # the card, as it would be
    assert str((folder / "model.safetensors").stat().st_size) in said
    assert REPO not in hub.repos

    code, said = publish("--push")
    assert code == 0, said
    assert published(hub) == files_of(folder)
    assert hub.repos[REPO].tags == {"v1": hub.head(REPO)}
    code, said = publish("--push")
    assert (code, "has these files already" in said) == (0, True), said
    assert len(asked(hub, "/commit/")) == len(asked(hub, "/tag/")) == 1
    assert not [entry for entry in hub.log if entry.origin == "cdn" and entry.token == TOKEN]
    card = ModelCard((folder / "README.md").read_text())
    assert (card.data.library_name, card.data.pipeline_tag) == ("hashzoo", "image-feature-extraction")

    # anybody finds and loads it
    code, facts = client.hashzoo("info", f"hf-hub:{REPO}", "--json", token=None)
    assert code == 0, facts
    facts = json.loads(facts)
    assert (facts["config"]["bits"], facts["config"]["license"]) == (48, "apache-2.0")
    assert facts["results"]["training"]["data_license"] == "unknown (so says its Hub card)"
    assert (facts["repo"], facts["commit"]) == (REPO, hub.head(REPO))
    assert facts["size"] == sum(map(len, files_of(folder).values()))
    assert not (Path(facts["folder"]) / "model.safetensors").exists()  # facts need no weights
    code, said = client.hashzoo("info", f"hf-hub:{REPO}", token=None)
    for fact in ("licence of training data", "spread not known", f"{REPO} at {hub.head(REPO)}", facts["folder"]):
        assert fact in said
    code, said = client.hashzoo("fetch", f"hf-hub:{REPO}@v1", "--json", token=None)
    assert code == 0, said
    assert files_of(Path(json.loads(said)[0]["folder"])) == files_of(folder)
    before = len(hub.log)
    code, said = client.hashzoo("verify", f"hf-hub:{REPO}@{hub.head(REPO)}", token=None)
    assert (code, said.strip()) == (0, f"hf-hub:{REPO}@{hub.head(REPO)}: ok")
    assert len(hub.log) == before


def card_of(name, bits=48, dataset="cifar10", license="mit", method="dsbh"):
    return f"""---
library_name: hashzoo
license: {license}
tags: [hashzoo, {method}, {bits}-bit]
datasets: [{dataset}]
model-index:
- name: {name}
  results:
  - task: {{type: image-feature-extraction}}
    dataset: {{type: {dataset}, name: {dataset}, config: {dataset}-full}}
    metrics: [{{type: mean_average_precision, value: 0.75}}]
---
""".encode()


RESULT = "model-index: [{name: x, results: [{task: {type: x}, dataset: %s, metrics: [{type: m, value: %s}]}]}]"
HOSTILE = [  # metadata that anybody can put in a card
    "model-index: 5",
    RESULT % ("{type: x, name: y, config: [1]}", ".nan"),
    RESULT % ('{type: x, name: y, config: "[/b]"}', "0.5"),
    RESULT % ('{type: x, name: y, config: "\\e[31m"}', "5"),
    "license: [a, {b: c}]\ndatasets: 5\neval_results: 3",
    "a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nlicense: [*b, *b, *b]",
    "self: 1",
    "ignore_metadata_errors: true",
]


@without_xet
def test_list(hub, client):
    hub.page = 2
    hub.commit("zoo/dsbh-a-48bit", {"README.md": card_of("a")})
    hub.commit("zoo/dsbh-b-64bit", {"README.md": card_of("b", 64, license="apache-2.0")})
    hub.commit("bob/dahp-c-48bit", {"README.md": card_of("c", dataset="flickr25k", method="dahp")})
    hub.commit("bob/other", {"README.md": b"---\ntags: [48-bit, dsbh]\nlicense: mit\n---\n"})  # no model of hashzoo

    def names(*options):
        code, said = client.hashzoo("list", "--hub", "--json", *options, token=None)
        assert code == 0, said
        return sorted(model["name"].partition("/")[2][5] for model in json.loads(said))

    assert names() == ["a", "b", "c"]
    assert any("cursor" in entry.query for entry in hub.log)  # by pages
    assert names("--bits", 48) == ["a", "c"]
    assert names("--author", "bob") == ["c"]
    assert names("--dataset", "cifar10") == ["a", "b"]
    assert names("--method", "dahp") == ["c"]
    assert names("--license", "mit", "--method", "dsbh") == ["a"]
    assert names("dsbh-*", "--bits", 64) == ["b"]
    assert names("--bits", 12) == []
    code, said = client.hashzoo("list", "--hub", "--author", "bob", token=None)
    assert code == 0
    assert re.search(r"hf-hub:bob/dahp-c-48bit +48 +flickr25k +flickr25k-full +0\.7500 +mit +0", said)
    assert client.hashzoo("list", "--author", "bob")[0] == 2

    for number, metadata in enumerate(HOSTILE):  # each alone must not spoil the list for all
        hub.commit("bob/bad", {"README.md": f"---\ntags: [hashzoo]\n{metadata}\n---\n".encode()})
        for form in ([], ["--json"]):
            code, said = client.hashzoo("list", "--hub", *form, token=None)
            assert code == 0, (metadata, said)
            assert "bob/bad" in said and "zoo/dsbh-a-48bit" in said and "\x1b[31m" not in said, number


def model_index(**changes):
    metric = {"type": "mean_average_precision", "value": 0.5}
    result = {"task": {"type": "x"}, "dataset": {"type": "x", "name": "y", "config": "z"}, "metrics": [metric]}
    return {"cardData": {"model-index": [{"name": "x", "results": [result | changes]}]}}


STRANGE = [  # changes to an entry of the list that leave nothing to read
    *({"id": id} for id in (None, 5, "", "../x", "a/b/c", "\x1b[31m/x", {"a": 1}, "\ud800/x")),
    *({"cardData": card} for card in (5, "x", [1], True)),
    *({"cardData": {"model-index": index}} for index in (5, True, {}, [], "x", [[]], [5], [{}], [{"name": "x"}])),
    *({"cardData": {"model-index": [{"name": "x", "results": results}]}} for results in (None, 5, "x", [], [5], [{}])),
    *(model_index(source=source) for source in ({"name": "z"}, {"name": {}}, "x", [1])),
    *(model_index(task=task) for task in (None, 5, [], {})),
    *(model_index(dataset=dataset) for dataset in (None, 5, {}, {"type": "x", "name": "y", "config": {"a": 1}})),
    *(model_index(metrics=metrics) for metrics in (None, 5, {}, [], [5], [{}])),
    *(
        model_index(metrics=[{"type": "x", "value": value}])
        for value in (None, "0.5", True, -0.5, 2, [], {}, math.nan, math.inf, 10**4000)
    ),
]
ODD = [  # and those that leave the name and the figures
    *({"tags": tags} for tags in (None, 5, "hashzoo", {"a": 1}, [5, None, {}, []], ["\ud800-bit", "999999-bit"])),
    *({"downloads": downloads} for downloads in (None, "x", -1.5, True, [], 10**4000)),
    *({"sha": sha} for sha in (None, 5, "../x", [])),
    *({"siblings": siblings} for siblings in (None, 5, "x", [5])),
    {"self": 1, "__class__": 5},
    {"createdAt": "yesterday", "lastModified": {}},
]


@without_xet
def test_entries_that_are_strange(hub, client):
    hub.commit("zoo/good", {"README.md": card_of("good")})
    sys_limit = sys.get_int_max_str_digits()

    def with_strangers(body):
        (good,) = json.loads(body)
        odd = [good | {"id": f"odd/{number}"} | change for number, change in enumerate(ODD)]
        strange = [good | {"id": f"bad/{number}"} | change for number, change in enumerate(STRANGE)]
        return json.dumps([None, 5, "x", [], {}, *strange, *odd, good]).encode()

    try:
        sys.set_int_max_str_digits(0)
        hub.faults[:] = [Fault("GET", "/api/models$", body=with_strangers)]
        code, said = client.hashzoo("list", "--hub", "--json", token=None)
    finally:
        sys.set_int_max_str_digits(sys_limit)
    assert code == 0, said
    *strange, last = json.loads(said)
    assert (last["name"], last["map"], last["readable"]) == ("zoo/good", 0.75, True)
    bad, odd = strange[: 5 + len(STRANGE)], strange[5 + len(STRANGE) :]
    assert [(entry["readable"], entry["map"]) for entry in bad] == [(False, None)] * len(bad)
    assert [(entry["name"], entry["readable"], entry["map"]) for entry in odd] == [
        (f"odd/{number}", True, 0.75) for number in range(len(ODD))
    ]
    code, said = client.hashzoo("list", "--hub", token=None)
    assert (code, said.count("unreadable")) == (0, len(bad)), said
    assert "\x1b" not in said and re.search(r"hf-hub:zoo/good .* 0\.7500 ", said)

    deep = b'{"id": "bad/deep", "cardData": ' + b"[" * 100_000 + b"]" * 100_000 + b"}, "
    large = b'{"id": "bad/large", "cardData": "' + b"x" * (20 << 20) + b'"}, '
    for bad in (deep, large):  # only without cards can the page be read
        hub.faults[:] = [Fault("GET", "/api/models$", body=lambda body, bad=bad: body.replace(b"[", b"[" + bad, 1))]
        hub.faults[0].times = 1
        code, said = client.hashzoo("list", "--hub", token=None)
        assert (code, "hf-hub:zoo/good" in said) == (0, True), said
    for body in (b"{}", b"null", b"[", b"\xff", b""):
        hub.faults[:] = [Fault("GET", "/api/models$", body=body)]
        code, said = client.hashzoo("list", "--hub", token=None)
        assert (code, "do not trust it" in said) == (2, True), said


@without_xet
def test_a_list_without_end(hub, client):
    hub.commit("zoo/good", {"README.md": card_of("good")})
    for link in (f"<{hub.url}/api/models?cursor=0>", "<http://hub.example.org/?cursor=0>"):
        hub.faults[:] = [Fault("GET", "/api/models$", headers={"Link": f'{link}; rel="next"'})]
        code, said = client.hashzoo("list", "--hub", token=None)
        assert (code, "has over 50 pages" in said) == (2, True)
        assert hub.faults[0].hits == 50


@without_xet
def test_words_of_people_survive(hub, folder, publish):
    path, ours = folder / "README.md", (folder / "README.md").read_text()
    below = f"{ours}\nMind the gap.\n"
    above = below.replace(BEGIN, f"Not for cats.\n\n{BEGIN}").replace("library_name", "language: en\nlibrary_name")
    for hubs, words in (
        (below, "Mind the gap."),
        (above, "Not for cats.\n\nMind the gap."),
        ("---\nlicense: mit\nextra_gated_prompt: Be kind.\n---\nMade by hand.\n", "Made by hand."),
    ):
        path.write_text(ours)
        hub.commit(REPO, files_of(folder) | {"README.md": hubs.encode()})
        code, said = publish("--push")
        assert code == 0, said
        for card in (hub.files(REPO)["README.md"].decode(), path.read_text()):
            assert card.partition(END)[2].strip() == words
            data = ModelCard(card).data.to_dict()
            assert data["license"] == "apache-2.0"
            assert data.get("language") == ("en" if hubs == above else None)
            assert data.get("extra_gated_prompt") == ("Be kind." if "by hand" in hubs else None)
        assert publish("--push")[0] == 0
    path.write_text(path.read_text().replace("Made by hand.", "Other words."))
    code, said = publish("--push")
    assert code == 2
    assert "has other words of its own" in said


@without_xet
def test_a_private_repository_and_a_pull_request(hub, folder, publish):
    code, said = publish("--push", "--private")
    assert code == 0, said
    assert hub.repos[REPO].private
    head = hub.head(REPO)
    with (folder / "README.md").open("a") as file:
        file.write("\nMy own words.\n")
    code, said = publish("--push", "--pr")
    assert code == 0, said
    assert f"{hub.url}/{REPO}/discussions/1" in said
    assert hub.head(REPO) == head
    assert b"My own words." in hub.files(REPO, "refs/pr/1")["README.md"]
    assert list(hub.repos[REPO].tags) == ["v1"]


# What is refused


def pickled(folder):
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


def without(*keys):
    def spoil(folder):
        results = json.loads((folder / "results.json").read_text())
        for key in keys:
            del results["rows"][0][key]
        (folder / "results.json").write_text(json.dumps(results))

    return spoil


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


def link_to(target):
    def spoil(folder):
        (folder.parent / "id_rsa").write_text("my secret")
        (folder / "pr-curve.png").unlink()
        (folder / "pr-curve.png").symlink_to(target)

    return spoil


def linked(name):
    """In place of the file, a link to what is just as good: it is somebody's choice what else a link may lead to."""

    def spoil(folder):
        (folder / name).rename(folder.parent / f"the-{name}")
        (folder / name).symlink_to(folder.parent / f"the-{name}")

    return spoil


def pipe(folder):
    (folder / "codes.parquet").unlink()
    os.mkfifo(folder / "codes.parquet")


def picture(change):
    def spoil(folder):
        data = (folder / "pr-curve.png").read_bytes()
        (folder / "pr-curve.png").write_bytes(change(data))

    return spoil


def text(name, words):
    return lambda folder: (folder / name).write_text(words)


def weights_with_words(folder):
    path = folder / "model.safetensors"
    save_file(load_file(path), path, metadata={"home": "/home/me"})
    old = json.loads((folder / "config.json").read_text())["weights_sha256"]
    for name in ("results.json", "config.json"):
        (folder / name).write_text((folder / name).read_text().replace(old, sha256(path)))


UNFIT = {
    **{f"{name} cannot be published (It is a link": linked(name) for name in LIMITS},
    "pr-curve.png cannot be published (It is a link; put the file itself there)": link_to("../id_rsa"),
    "pr-curve.png cannot be published (It is a link;": link_to("/dev/zero"),
    "codes.parquet cannot be published (It is no regular file)": pipe,
    "README.md cannot be published (It has more than": text("README.md", "x" * (2 << 20)),
    "README.md cannot be read as a card": lambda folder: (folder / "README.md").write_bytes(b"\xff\xfe"),
    "pr-curve.png is no plain PNG (it does not begin as one)": text("pr-curve.png", "my secret"),
    "no plain PNG (it has a chunk b'zTXt')": picture(lambda data: data[:33] + chunk(b"zTXt", b"a\0\0b") + data[33:]),
    "no plain PNG (it has a chunk b'eXIf')": picture(lambda data: data[:33] + chunk(b"eXIf", b"MM") + data[33:]),
    "no plain PNG (its chunks are in no order)": picture(lambda data: data + chunk(b"IDAT", b"more")),
    "no plain PNG (it has a chunk b'ecre')": picture(lambda data: data + b"my secret"),
    "no plain PNG (its chunk b'IDAT' is damaged)": picture(lambda data: data[:-20]),
    "no plain PNG (its pixels are fewer or more": picture(
        lambda data: (
            data[:33] + data[33 : data.index(b"IDAT") - 4] + chunk(b"IDAT", zlib.compress(b"0" * 99)) + data[-12:]
        )
    ),
    "x 2147483647 pixels are too many": picture(
        lambda data: data[:8] + chunk(b"IHDR", data[16:20] + b"\x7f\xff\xff\xff" + data[24:29]) + data[33:]
    ),
    "recipe.toml is no recipe of this model": text("recipe.toml", "[registry]\ntoken = 'secret'\n"),
    "recipe.toml cannot be read as TOML": text("recipe.toml", "a = " + "[" * 9999),
    "codes.parquet cannot be read as published codes": text("codes.parquet", "my secret"),
    "has words beside its tensors": weights_with_words,
    "pytorch_model.bin is no file of a model's folder (weights are safetensors only)": pickled,
    "'rows.0.protocol' is wrong (Field required": without("protocol"),
    "'rows.0.ties' is wrong (Field required": without("ties"),
    "'rows.0.seed' is wrong (Field required": without("seed"),
    "README.md does not say what results.json says": other_number,
    "fails its probe": other_weights,
    "has no probe.json": lambda folder: (folder / "probe.json").unlink(),
}


@without_xet
def test_folders_that_are_not_fit(hub, client, folder, publish, tmp_path):
    for number, (message, spoil) in enumerate(UNFIT.items()):
        spoilt = Path(shutil.copytree(folder, tmp_path / str(number) / NAME))
        spoil(spoilt)
        code, said = client.hashzoo("publish", spoilt, "--repo", REPO, "--push")
        assert (code, message in said) == (2, True), (message, said)
        assert "/hashzoo-" not in said and "secret" not in said.replace("b'ecre'", "")  # no private copy's name
    (tmp_path / "link").symlink_to(folder)
    code, said = client.hashzoo("publish", tmp_path / "link", "--repo", REPO, "--push")
    assert (code, "or a link to one; name a model's folder itself" in said) == (2, True), said
    code, said = publish("--push", repo="zoo/bad..name")
    assert (code, "no name of the Hub" in said) == (2, True), said
    assert not hub.repos


CHANGED = """
import os, sys, tempfile
from pathlib import Path
from hashzoo.release import publish
folder = Path(sys.argv[1])
plan = publish.plan(folder, sys.argv[2])
private = plan.copy
for path in folder.iterdir():
    path.unlink()
    path.symlink_to("/etc/passwd")
(folder / "README.md").unlink()
(folder / "README.md").write_text("changed")
publish.push(plan)
del plan
assert not private.exists()
"""


@without_xet
def test_what_was_checked_is_what_is_sent(hub, client, folder):
    before = files_of(folder)
    client(CHANGED, folder, REPO, token=TOKEN)
    sent = published(hub)
    assert sent | {"README.md": b""} == before | {"README.md": b""}
    assert f'hashzoo.load("hf-hub:{REPO}")'.encode() in sent["README.md"]


@without_xet
def test_who_may_not_publish(hub, publish):
    for token, message in ((None, "log in with `hf auth login`"), ("hf_bob_read", "The Hub refuses")):
        code, said = publish("--push", token=token)
        assert (code, message in said) == (2, True), said
    assert REPO not in hub.repos


# Faults


@without_xet
def test_a_commit_that_came_between_is_not_overwritten(hub, folder, publish):
    hub.commit(REPO, files_of(folder))
    with (folder / "README.md").open("a") as file:
        file.write("\nMy own words.\n")
    between = Fault(method="POST", path="/commit/", times=1)
    between.action = lambda: hub.commit(REPO, {"notes.txt": b"by another"})
    hub.faults.append(between)
    code, said = publish("--push")
    assert code == 2
    assert "changed on the Hub meanwhile; nothing was uploaded" in said
    assert publish("--push")[0] == 0
    assert hub.files(REPO)["notes.txt"] == b"by another"
    assert b"My own words." in hub.files(REPO)["README.md"]


COMMON = [
    ("GET", "/revision/main$"), ("POST", "/repos/create$"), ("GET", "/models/[^/]+/[^/]+$"), ("POST", "/validate-yaml$"),
    ("POST", "/preupload/main$"), ("POST", "/commit/main$"), ("POST", "/tag/[^/]+$"),
]  # fmt: skip
LFS = [("POST", "/objects/batch$"), ("PUT", "^/lfs/"), ("POST", "/lfs/verify$")]
XET = [("GET", "/xet-write-token/"), ("POST", "^/v1/xorbs/"), ("POST", "^/v1/shards$")]
SAID = {  # by the Hub's answer
    401: "The Hub refuses",
    403: "The Hub refuses",
    404: "The Hub answers 404",
    500: "The Hub answers 500",
    503: "The Hub answers 503",
    "gated": "is gated: ask for it on the model's page",
    "redirect": "",
}


def test_a_hub_that_fails_at_any_call(hub, client, folder, publish):
    """Whatever fails, what was there stays, nobody sees a part, no token leaves, and the next push finishes."""
    for number, (method, path) in enumerate(XET if hub.xet else [*COMMON, *LFS]):
        repo, there = f"zoo/model-{number}", [".gitattributes"]
        for answer, message in SAID.items():
            another_picture(folder)  # large files are sent only once
            fault = Fault(method, path, status={"gated": 403, "redirect": 307}.get(answer, answer))
            if answer == "gated":
                fault.headers = {"X-Error-Code": "GatedRepo"}
            if answer == "redirect":
                fault.redirect = f"{hub.cdn_url}/elsewhere"
            hub.faults[:] = [fault]
            code, said = publish("--push", repo=repo)
            case = (method, path, answer, said)
            assert fault.hits and code == 2, case
            assert said.count("Error: ") == 1 and f"model-{number}" in said, case
            # Xet says the number alone, and its storage knows no gate
            assert message in said or (hub.xet and answer == "gated" and "The Hub refuses" in said), case
            if repo in hub.repos and "/tag/" not in path:
                assert list(hub.files(repo)) == there and not hub.repos[repo].tags, case
            if repo in hub.repos and "/models/[^/]+" in path:
                break  # the repository is there now, and asked for another way
        hub.faults.clear()
        code, said = publish("--push", repo=repo)
        assert code == 0, (method, path, said)
        assert published(hub, repo) == files_of(folder)
        assert hub.head(repo) in hub.repos[repo].tags.values()
    assert not [entry for entry in hub.log if entry.origin == "cdn" and (entry.token or "").startswith("hf_")]
    hub.unknown.clear()  # where the redirects led


@without_xet
def test_a_hub_that_fails_at_a_known_model(hub, folder, publish):
    """Likewise at the calls that only a model that is there already needs."""
    hub.commit(REPO, files_of(folder) | {"README.md": (folder / "README.md").read_bytes() + b"\nMind the fault.\n"})
    hub.tag(REPO, "v1")
    for method, path in (("GET", "/refs$"), ("GET", "/README.md$")):
        for answer in (401, 403, 404, 500, 503):
            hub.faults[:] = [Fault(method, path, status=answer)]
            code, said = publish("--push")
            assert (code, SAID[answer] in said) == (2, True), (method, path, answer, said)
            assert list(hub.repos[REPO].tags) == ["v1"]
    hub.faults.clear()
    assert publish("--push")[0] == 0
    assert list(hub.repos[REPO].tags) == ["v1", "v2"]


def test_killed_in_a_publish(hub, client, folder, publish):
    another_picture(folder)
    hub.faults.append(Fault("POST", "^/v1/shards$" if hub.xet else "/commit/", delay=60.0, times=1))
    process = client.start(SHELL)
    process.stdin.write(json.dumps([["publish", str(folder), "--repo", REPO, "--push"], TOKEN]) + "\n")
    process.stdin.flush()
    deadline = time.monotonic() + 200
    while not hub.faults[0].hits and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert hub.faults[0].hits
    hub.faults.clear()
    assert list(hub.files(REPO)) == [".gitattributes"]
    code, said = publish("--push")
    assert code == 0, said
    assert published(hub) == files_of(folder)
    assert list(hub.repos[REPO].tags) == ["v1"]


SOON = """
import sys
from hashzoo.release import publish
from hashzoo.zoo import hub
hub.PATIENCE = publish.PATIENCE = 2.0
hub.FLOOR = 1e9
from hashzoo.cli import main
main()
"""


@pytest.mark.parametrize("at", ["bytes", "commit"])
def test_a_hub_that_is_silent_in_a_publish(hub, client, folder, publish, at):
    another_picture(folder)  # two large files that the hub does not know
    codes = folder / "codes.parquet"
    pq.write_table(pq.read_table(codes), codes, compression={"bytes": "gzip", "commit": "snappy"}[at])
    write_card(folder)  # it says how large all files are
    path = "/commit/" if at == "commit" else "^/v1/xorbs/" if hub.xet else "^/lfs/"
    hub.faults[:] = [Fault(None, path, delay=600.0)]
    done = client(SOON, "publish", folder, "--repo", REPO, "--push", token=TOKEN, check=False, timeout=200)
    assert (done.returncode, hub.faults[0].hits > 0) == (2, True), done  # and what still hangs kept no process
    assert f"The Hub is silent or too slow for {REPO}" in done.stderr
    hub.faults.clear()
    assert publish("--push")[0] == 0


# A maintainer's checkout

MODEL = """
import os, re, sys
from pathlib import Path
import hashzoo
name, repo, saved, again, token = sys.argv[1:]
assert hashzoo.load(name, device="cpu").folder.parent.name == "snapshots"
model = hashzoo.HashModel.from_pretrained(repo, revision="v1")
assert model.save_pretrained(saved) is None
for wrong in (dict(token=False), dict(token="hf_bob_read")):
    try:
        model.push_to_hub(again, **wrong)
    except hashzoo.HashzooError as error:
        assert "`hf auth login`" in str(error), error
    else:
        raise AssertionError("published by nobody")
card = (model.folder / "README.md").read_bytes()
assert hashzoo.HashModel.from_pretrained(saved).bits == model.bits
os.environ.pop("HF_TOKEN")
print(model.save_pretrained(saved + "-too", push_to_hub=True, repo_id=again, private=True, commit_message="Mine", token=token))
try:
    hashzoo.HashModel.from_pretrained(again)
except hashzoo.HashzooError as error:
    assert "you may not see it" in str(error), error
hashzoo.HashModel.from_pretrained(again, token=token)
hashzoo.HashModel.from_pretrained(again, local_files_only=True)
assert (model.folder / "README.md").read_bytes() == card  # the Hub's cache stays as it is
card = (hashzoo.HashModel.from_pretrained(again, local_files_only=True).folder / "README.md").read_text()
os.environ["HF_TOKEN"] = token
exec(re.search(r"```python\\n(.*?)```", card, re.DOTALL)[1])
assert codes.bits == 48 and hits.ids.shape == (2, 2), hits
"""


@without_xet
def test_all_that_ship_and_the_index(hub, client, tmp_path):
    root, index = tmp_path / "checkout", tmp_path / "checkout" / "model_cards" / "catalog.json"
    shutil.copytree(Path(hashzoo.__file__).parent, root / "hashzoo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(hashzoo.__file__).parent.parent / "tools", root / "tools")
    cards, second = root / "model_cards", "second"
    shutil.copytree(shipped_folder() / NAME, cards / NAME)
    shutil.copytree(shipped_folder() / NAME, cards / second)
    config = json.loads((cards / second / "config.json").read_text())
    (cards / second / "config.json").write_text(json.dumps(config | {"name": second}))
    write_card(cards / second)
    shutil.copytree(cards / NAME, cards / "by-its-recipe", ignore=shutil.ignore_patterns("model.safetensors"))
    config = json.loads((cards / "by-its-recipe" / "config.json").read_text())
    (cards / "by-its-recipe" / "config.json").write_text(json.dumps(config | {"name": "by-its-recipe"}))
    index.write_text('{"format": 1, "models": []}')
    (root / "docs").mkdir()

    def make_index():
        subprocess.run([sys.executable, "-m", "tools.zoo"], check=True, cwd=root)
        return {entry["name"]: entry for entry in json.loads(index.read_text())["models"]}

    make_index()
    maintainer = Client(hub, tmp_path)
    there = ("env", "-C", str(root))
    maintainer.shell = maintainer.start(SHELL, through=there)
    known = index.read_bytes()
    trial = ["publish", cards / NAME, "--repo", "ann/trial", "--push"]
    assert maintainer.hashzoo(*trial)[0] == 0
    assert index.read_bytes() == known
    publish_all = ["publish", "--all", "--repo", "zoo"]
    code, said = maintainer.hashzoo(*publish_all)
    assert (code, said.count("Nothing was sent; 8 files would change")) == (0, 2), said
    assert "by-its-recipe is left out: it ships without its weights." in said
    assert list(hub.repos) == ["ann/trial"]
    hub.faults.append(Fault("POST", f"/{second}/commit/", status=500))
    code, said = maintainer.hashzoo(*publish_all, "--push")
    assert (code, f"{REPO}/commit/" in said, f"The Hub answers 500 for zoo/{second}" in said) == (2, True, True), said
    hub.faults.clear()
    hub.log.clear()
    code, said = maintainer.hashzoo(*publish_all, "--push")
    assert (code, f"{REPO} has these files already" in said) == (0, True), said
    assert [entry.path for entry in asked(hub, "/commit/")] == [f"/api/models/zoo/{second}/commit/main"]
    code, said = maintainer.hashzoo(*publish_all, "--push", "--json")
    reports = json.loads(said[said.index("[") :])  # after what was said on stderr
    assert (code, [report["pushed"].count("already") for report in reports]) == (0, [1, 1])
    entries = make_index()  # made anew, it still knows
    for elsewhere in (trial, ["publish", "--all", "--repo", "ann", "--push"]):
        assert maintainer.hashzoo(*elsewhere)[0] == 0
        assert make_index() == entries  # another organisation's repositories are not the zoo's
    assert not entries.pop("by-its-recipe")["weights"]
    assert {name: (entry["repo"], entry["commit"]) for name, entry in entries.items()} == {
        name: (f"zoo/{name}", hub.head(f"zoo/{name}")) for name in (NAME, second)
    }
    assert entries[NAME]["files"]["model.safetensors"][0] == sha256(cards / NAME / "model.safetensors")

    # where the folder is not at hand, the name is fetched at the pinned commit, once
    here = cards / NAME
    away = here.rename(tmp_path / NAME)
    hub.commit(REPO, {"model.safetensors": b"newer"})
    facts = json.loads(maintainer.hashzoo("info", NAME, "--json", token=None)[1])
    assert (facts["repo"], facts["commit"]) == (REPO, entries[NAME]["commit"])
    assert facts["size"] == entries[NAME]["size"]
    assert not (Path(facts["folder"]) / "model.safetensors").exists()
    code, said = maintainer.hashzoo("verify", NAME, token=None)
    assert (code, said.strip()) == (0, f"{NAME}: ok")
    assert files_of(Path(facts["folder"])) == files_of(away)
    hub.log.clear()
    assert maintainer.hashzoo("fetch", NAME)[0] == 0
    assert not hub.log
    code, said = maintainer.hashzoo("verify", f"hf-hub:{REPO}", token=None)
    assert (code, "model.safetensors is damaged: its sha256 is not the config's" in said) == (1, True), said

    # the ecosystem's methods; and what the card says works
    for name in ("cat.jpg", "dog.jpg"):
        shutil.copy(next((shipped_folder().parent / "examples" / "photos").glob("*.jpg")), root / name)
    saved = tmp_path / "saved"
    done = maintainer(MODEL, NAME, REPO, saved, "zoo/again", TOKEN, token=TOKEN, through=there)
    assert files_of(saved) == files_of(away)
    assert done.stdout.strip() == f"{hub.url}/zoo/again/commit/{hub.head('zoo/again')}"
    assert hub.repos["zoo/again"].commits[hub.head("zoo/again")].title == "Mine"
    assert hub.repos["zoo/again"].private
    maintainer.close()


@without_xet
def test_a_folder_that_cannot_be_written(hub, client, folder, publish):
    """The Hub has the model then, and the message says so."""
    hub.commit(REPO, files_of(folder) | {"README.md": (folder / "README.md").read_bytes() + b"\nMind the gap.\n"})
    client.shell = client.start(f"import secrets; secrets.token_hex = lambda size: 'f00d'\n{SHELL}")
    assert publish()[0] == 0
    (folder / f".README.md.{client.shell.pid}-f00d.partial").mkdir()  # where the new card would be written
    code, said = publish("--push")
    assert (code, f"{REPO} is published ({hub.url}/{REPO}/commit/" in said) == (2, True), said
    assert "README.md" in said and "make it writable and publish again" in said
    assert list(hub.repos[REPO].tags) == ["v1"]
