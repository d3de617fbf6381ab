"""A small Hugging Face Hub for tests: the real client talks to it over loopback.

Repositories of models are held in memory. Two listeners run in one background thread of the test process:
the *hub* on 127.0.0.1 (API, git LFS, file resolution) and the *CDN* on localhost (bytes of large files, Xet storage).
The two are different origins, so that a test can see that a token never leaves the hub.

    with Hub(xet=False) as hub:
        sha = hub.commit("zoo/demo", {"config.json": b"{}"})
        hub.faults.append(Fault(method="GET", path="config.json", status=503))
        ...  # run a client with HF_ENDPOINT=hub.url
        assert [entry.status for entry in hub.log] == [200, 503]

The file reads from top to bottom: what is stored, the web part (requests, answers, faults, routes), `Hub`, then one
handler a client call. A route without handler answers 501 and is noted in `hub.unknown`.
"""

import asyncio
import hashlib
import json
import re
import socket
import struct
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlencode

import pyarrow
import uvicorn
import yaml

Origin = Literal["hub", "cdn"]
Token = tuple[str, str]  # the user's name, and "read" or "write"

LARGE = 10_000  # bytes; a file above is stored by git LFS
LARGE_SUFFIXES = (".safetensors", ".parquet")  # these always are
PAGE = 1000  # entries of a list in one answer
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)  # commits are a second apart, so that runs agree on their ids


# What is stored


@dataclass(frozen=True)
class Blob:
    """One file's content, and the ids the Hub gives it."""

    data: bytes
    lfs: bool
    oid: str  # git's id: of the content, or of its pointer when stored by LFS
    sha256: str

    @classmethod
    def of(cls, path: str, data: bytes) -> "Blob":
        """Store content under a path, which decides whether it goes to LFS."""
        lfs, sha256 = is_large(path, len(data)), hashlib.sha256(data).hexdigest()
        return cls(data, lfs, git_oid(pointer(sha256, len(data)) if lfs else data), sha256)

    @property
    def etag(self) -> str:
        """What the client names the file by in its cache."""
        return self.sha256 if self.lfs else self.oid

    def lfs_facts(self, name: str) -> dict[str, dict[str, object]]:
        """Describe a large file; the sha256 goes by different names."""
        size = len(self.data)
        facts = {name: self.sha256, "size": size, "pointerSize": len(pointer(self.sha256, size))}
        return {"lfs": facts} if self.lfs else {}


@dataclass(frozen=True)
class Commit:
    """A whole state of a repository."""

    sha: str
    parents: tuple[str, ...]
    files: Mapping[str, Blob]
    title: str
    message: str
    date: str
    author: str


@dataclass
class Repo:
    """A repository: its commits by sha, and names for some of them."""

    id: str
    private: bool = False
    gated: str | bool = False  # False, "auto" or "manual"
    downloads: int = 0
    likes: int = 0
    created: str = ""
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)  # by reference: refs/pr/1

    @property
    def owner(self) -> str:
        """The user or organization."""
        return self.id.split("/")[0]

    def find(self, revision: str) -> Commit | None:
        """Look a revision up: a branch, tag, pull request or (shortened) sha."""
        name = revision.removeprefix("refs/heads/")
        for names in (self.branches, self.tags, self.pulls):
            if name in names:
                return self.commits[names[name]]
        found = [sha for sha in self.commits if len(name) >= 7 and sha.startswith(name)]
        return self.commits[found[0]] if len(found) == 1 else None

    def history(self, commit: Commit) -> Iterator[Commit]:
        """Walk from a commit to the first one."""
        yield commit
        while commit.parents:
            commit = self.commits[commit.parents[0]]
            yield commit


@dataclass(frozen=True)
class Term:
    """A piece of a Xet file: the chunks start..end (exclusive) of a xorb, and their unpacked size."""

    xorb: str
    start: int
    end: int
    size: int


def git_oid(data: bytes) -> str:
    """Hash content as git does."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """Write the text that git holds in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def is_large(path: str, size: int) -> bool:
    """Tell whether a file is stored by LFS (or Xet)."""
    return size > LARGE or path.endswith(LARGE_SUFFIXES)


def card_problems(text: str) -> tuple[dict[str, Any], list[str]]:
    """Read the metadata at the top of a README; return it with what is wrong in it."""
    match = re.match(r"\A---\r?\n(.*?)\r?\n---(\r?\n|\Z)", text, re.DOTALL)
    if match is None:
        return {}, []
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return {}, [f"bad YAML: {error}"]
    if not isinstance(data, dict):
        return {}, ["the metadata must be a mapping"]
    tags = data.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return data, ['"tags" must be an array of strings']
    return data, []


# Requests, answers and faults


@dataclass(frozen=True)
class Entry:
    """A line of the request log."""

    method: str
    path: str  # decoded
    query: dict[str, list[str]]
    origin: Origin
    token: str | None  # of the Authorization header
    range: str | None
    status: int


@dataclass
class Fault:
    """Something that goes wrong with the requests of a method (None: any) whose decoded path the regex finds.

    An answer can be replaced: `status` (the work is then not done), `redirect` (with 302 if no status is given), `body`
    (bytes, or a function of the true body), `headers` (None removes one). Its bytes can be damaged: `flip` the lowest
    bit of the byte at an offset, send `short` bytes fewer with a Content-Length that agrees, `cut` the connection after
    so many bytes. `delay` waits so many seconds before the answer or, with `stall`, after so many bytes of it;
    `drip` waits so many seconds after each single byte. Answers with too few bytes for `flip`, `short`, `cut` or `stall`
    are left alone and do not count. `action` is called before the request is answered. `spare` lets so many requests
    pass first, and `times` limits how many suffer; `hits` counts them.
    """

    method: str | None = None
    path: str = ""
    status: int | None = None
    body: bytes | Callable[[bytes], bytes] | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    cut: int | None = None
    flip: int | None = None
    short: int | None = None
    redirect: str | None = None
    delay: float = 0.0
    stall: int | None = None
    drip: float = 0.0
    action: Callable[[], object] | None = None
    spare: int = 0
    times: int | None = None
    hits: int = 0

    def matches(self, request: "Request") -> bool:
        """Tell whether this request may suffer."""
        return self.left() and self.method in (None, request.method) and bool(re.search(self.path, request.path))

    def left(self) -> bool:
        """Tell whether more requests may suffer."""
        return self.times is None or self.hits < self.times

    @property
    def damages(self) -> bool:
        """Tell whether it damages bytes: then only answers that have them count."""
        return not (self.cut is self.flip is self.short is self.stall is None)

    def fits(self, answer: "Answer") -> bool:
        """Tell whether the answer has the bytes that are to be damaged."""
        return len(answer.body) > max(self.cut or 0, self.flip or 0, self.short or 0, self.stall or 0)

    def replace(self) -> "Answer | None":
        """Return the answer given in place of the work, if any."""
        if self.redirect is not None:
            return Answer(self.status or 302, headers={"Location": self.redirect})
        if self.status is not None:
            return Answer.json({"error": "a fault of the test"}, self.status)
        return None

    def change(self, answer: "Answer") -> None:
        """Change the answer as asked."""
        if self.body is not None:
            answer.body = self.body(answer.body) if callable(self.body) else self.body
        if self.flip is not None:
            changed = bytearray(answer.body)
            changed[self.flip] ^= 1
            answer.body = bytes(changed)
        if self.short:
            answer.body = answer.body[: -self.short]
        for name, value in self.headers.items():
            answer.set_header(name, value)


@dataclass(frozen=True)
class Request:
    """A request as handlers see it."""

    method: str
    raw_path: str  # still percent-encoded: a revision such as dev%2Fx is one segment
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    origin: Origin

    @property
    def path(self) -> str:
        """The decoded path, for the log and for faults."""
        return unquote(self.raw_path)

    @property
    def token(self) -> str | None:
        """What the Authorization header carries."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else scheme or None

    def json(self) -> Any:
        """Read a JSON body; an empty one is an empty object."""
        return json.loads(self.body or b"{}")

    def last(self, name: str) -> str | None:
        """Return a parameter of the query."""
        return self.query[name][-1] if name in self.query else None

    def flag(self, name: str) -> bool:
        """Tell whether a parameter of the query is on."""
        return (self.last(name) or "").lower() in ("1", "true")


@dataclass
class Answer:
    """What is sent back; the body is left out for HEAD."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> "Answer":
        """Answer with JSON; dates, which YAML has and JSON has not, become text."""
        body = json.dumps(content, default=str).encode()
        return cls(status, body, {"Content-Type": "application/json", **(headers or {})})

    def announced(self) -> int:
        """Return the size that the headers promise."""
        return next(int(value) for name, value in self.headers.items() if name.lower() == "content-length")

    def set_header(self, name: str, value: str | None) -> None:
        """Replace a header whatever its case; None removes it."""
        self.headers = {key: old for key, old in self.headers.items() if key.lower() != name.lower()}
        if value is not None:
            self.headers[name] = value


class Refusal(Exception):
    """A request that cannot be served, with the code by which the client chooses its exception."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: object) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer.json({"error": message, **more}, status, headers)
        super().__init__(message)


Handler = Callable[..., Answer]
ROUTES: list[tuple[str, Origin, re.Pattern[str], Handler]] = []


def route(methods: str, template: str, origin: Origin = "hub") -> Callable[[Handler], Handler]:
    """Register a handler: {repo} is two segments, {path} one or more, any other name one segment."""
    pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    pattern = pattern.replace("{repo}", "(?P<repo>[^/]+/[^/]+)").replace("{path}", "(?P<path>.+)")
    compiled = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))

    def register(handler: Handler) -> Handler:
        ROUTES.extend((method, origin, compiled, handler) for method in methods.split())
        return handler

    return register


# The hub


class Hub:
    """The server with its state; use it as a context manager.

    Args:
        xet: Offer Xet storage, the client's default. Without it run clients with HF_HUB_DISABLE_XET=1.
    """

    def __init__(self, xet: bool = False) -> None:
        self.xet = xet
        self.tokens: dict[str, Token] = {"hf_ann_write": ("ann", "write"), "hf_bob_read": ("bob", "read")}
        self.members: dict[str, set[str]] = {"zoo": {"ann"}}  # of organizations
        self.repos: dict[str, Repo] = {}
        self.page = PAGE
        self.log: list[Entry] = []
        self.unknown: list[str] = []
        self.faults: list[Fault] = []
        self.objects: dict[str, bytes] = {}  # large files by sha256
        self.xet_hashes: dict[str, str] = {}  # large files: sha256 -> Xet hash
        self.xet_files: dict[str, list[Term]] = {}  # by Xet hash
        self.xorbs: dict[str, bytes] = {}
        self.url = self.cdn_url = ""
        self._clock = 0
        self._lock = threading.RLock()  # the test's thread and the server's use the same state
        self._servers: list[uvicorn.Server] = []
        self._thread = threading.Thread(target=self._serve, name="hub", daemon=True)
        self._sockets: list[socket.socket] = []

    # What tests do to the repositories

    def clear(self) -> None:
        """Forget all but the bytes of large files, which clients remember to have sent."""
        with self._lock:
            for kept in (self.repos, self.log, self.unknown, self.faults):
                kept.clear()
            self.page = PAGE

    def create(self, name: str, private: bool = False, gated: bool | str = False) -> Repo:
        """Create a repository with its first commit, as the Hub does, or return the one there is."""
        with self._lock:
            if name not in self.repos:
                gate = "manual" if gated is True else gated
                self.repos[name] = Repo(name, private, gate, created=self._now())
                attributes = b"".join(b"*%s filter=lfs diff=lfs merge=lfs -text\n" % s.encode() for s in LARGE_SUFFIXES)
                self.commit(name, {".gitattributes": attributes}, "initial commit")
            return self.repos[name]

    def commit(
        self, name: str, changes: Mapping[str, bytes | None], message: str = "a commit", branch: str = "main",
        author: str = "ann", parent: str | None = None,
    ) -> str:  # fmt: skip
        """Write files (None deletes one) on a branch or refs/pr/1, and return the commit's sha."""
        with self._lock:
            repo = self.create(name)
            names = repo.pulls if branch.startswith("refs/pr/") else repo.branches
            head = repo.find(parent or branch) or repo.find("main")
            files = dict(head.files) if head else {}
            for path, data in changes.items():
                files.pop(path, None)
                if data is not None:
                    files[path] = self._store(Blob.of(path, data))
            parents = (head.sha,) if head else ()
            date, title = self._now(), message.split("\n")[0]
            content = repr((name, parents, message, date, sorted((path, blob.oid) for path, blob in files.items())))
            sha = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
            repo.commits[sha] = Commit(sha, parents, files, title, message, date, author)
            names[branch] = sha
            return sha

    def tag(self, name: str, tag: str, revision: str = "main") -> None:
        """Name a commit; an existing tag is moved, which the API would refuse."""
        self.repos[name].tags[tag] = self.head(name, revision)

    def head(self, name: str, revision: str = "main") -> str:
        """Return the sha of a revision."""
        return self._commit_of(name, revision).sha

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a revision."""
        return {path: blob.data for path, blob in self._commit_of(name, revision).files.items()}

    def xet_hash(self, name: str, path: str, revision: str = "main") -> str:
        """Return the Xet hash of a large file (for faults that name another file's)."""
        return self.xet_hashes[self._commit_of(name, revision).files[path].sha256]

    def _commit_of(self, name: str, revision: str) -> Commit:
        with self._lock:
            commit = self.repos[name].find(revision)
        if commit is None:
            raise KeyError(f"{name} has no revision {revision}")
        return commit

    def _store(self, blob: Blob) -> Blob:
        if blob.lfs:
            self.objects[blob.sha256] = blob.data
            if self.xet and blob.sha256 not in self.xet_hashes:
                # The client takes the two hashes on trust, so any name will do for a file written by the test.
                xorb = hashlib.sha256(b"xorb " + blob.data).hexdigest()
                file = hashlib.sha256(b"file " + blob.data).hexdigest()
                self.xorbs[xorb] = packed = pack_xorb(blob.data)
                self.xet_files[file] = [Term(xorb, 0, len(chunks_of(packed)), len(blob.data))] if blob.data else []
                self.xet_hashes[blob.sha256] = file
        return blob

    def _now(self) -> str:
        self._clock += 1
        return (FIRST_DAY + timedelta(seconds=self._clock)).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    # Who may do what

    def user_of(self, request: Request) -> Token | None:
        """Return the user's name and role, None for nobody."""
        if request.token is None:
            return None
        if request.token not in self.tokens:
            raise Refusal(401, "Invalid username or password.")
        return self.tokens[request.token]

    def owns(self, user: Token | None, owner: str) -> bool:
        """Tell whether a user is the owner, or a member of it."""
        return user is not None and (user[0] == owner or user[0] in self.members.get(owner, ()))

    def readable(self, request: Request, name: str, content: bool = False) -> Repo:
        """Return a repository that the user may see; `content` asks for its files, which a gate may guard."""
        user = self.user_of(request)
        repo = self.repos.get(name)
        if repo is None or (repo.private and not self.owns(user, repo.owner)):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if content and repo.gated and not self.owns(user, repo.owner):
            message = f"Access to model {name} is restricted: you must be in its authorized list."
            raise Refusal(403 if user else 401, message, "GatedRepo")
        return repo

    def check_write(self, request: Request, owner: str) -> str:
        """Refuse who may not write for this owner; return the user's name."""
        user = self.user_of(request)
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user[1] != "write" or not self.owns(user, owner):
            raise Refusal(403, f"You don't have the rights to write for {owner}.")
        return user[0]

    def writable(self, request: Request, name: str) -> Repo:
        """Return a repository that the user may write to (or, with create_pr=1, propose changes to)."""
        repo = self.readable(request, name)
        user = self.user_of(request)
        if not (request.flag("create_pr") and user and user[1] == "write"):
            self.check_write(request, repo.owner)
        return repo

    def revision(self, repo: Repo, revision: str) -> Commit:
        """Return a commit, or refuse."""
        commit = repo.find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # The server

    def __enter__(self) -> "Hub":
        urls = []
        for host in ("127.0.0.1", "localhost"):  # the names differ, and so do the origins
            listener = socket.create_server(("127.0.0.1", 0), backlog=128)
            urls.append(f"http://{host}:{listener.getsockname()[1]}")
            self._sockets.append(listener)
        self.url, self.cdn_url = urls
        self._thread.start()
        deadline = time.monotonic() + 60
        while len(self._servers) < 2 or not all(server.started for server in self._servers):
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the test hub did not start")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.should_exit = True
        self._thread.join(timeout=30)
        for listener in self._sockets:
            listener.close()

    def _serve(self) -> None:
        async def both() -> None:
            options: dict[str, Any] = {
                "log_config": None,
                "log_level": "critical",
                "lifespan": "off",
                "http": "h11",
                "ws": "none",
            }
            for origin in ("hub", "cdn"):
                config = uvicorn.Config(self._app(origin), timeout_graceful_shutdown=1, server_header=False, **options)
                self._servers.append(uvicorn.Server(config))
            pairs = zip(self._servers, self._sockets, strict=True)
            await asyncio.gather(*(server.serve(sockets=[listener]) for server, listener in pairs))

        asyncio.run(both())

    def _app(self, origin: Origin) -> Callable[..., Any]:
        async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
            body, more = bytearray(), True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
            request = Request(
                scope["method"], scope["raw_path"].decode("latin-1"),
                parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True),
                {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
                bytes(body), origin,
            )  # fmt: skip
            try:
                await self._reply(request, send)
            except Exception as error:  # of a fault: an action, a body, a header that cannot be sent
                self.unknown.append(f"{request.method} {request.path} ({origin}): its fault raised {error!r}")
                raise

        return app

    async def _reply(self, request: Request, send: Callable[[Any], Any]) -> None:
        faults = [fault for fault in list(self.faults) if fault.matches(request)]
        spared = [fault for fault in faults if fault.spare]
        for fault in spared:
            fault.spare -= 1
        faults = [fault for fault in faults if fault not in spared]
        for fault in faults:
            fault.hits += not fault.damages
            if fault.action:
                fault.action()
            if fault.delay and fault.stall is None:
                await asyncio.sleep(fault.delay)
        replaced = [answer for fault in faults if (answer := fault.replace())]
        answer = replaced[0] if replaced else self._answer(request)
        cut = stall = None
        for fault in faults:
            if fault.damages and not (fault.left() and fault.fits(answer)):
                continue
            fault.hits += fault.damages
            fault.change(answer)
            cut = fault.cut if fault.cut is not None else cut
            stall = fault if fault.stall is not None else stall
        if "content-length" not in {name.lower() for name in answer.headers}:
            answer.headers["Content-Length"] = str(len(answer.body))
        span = request.headers.get("range")
        self.log.append(
            Entry(request.method, request.path, request.query, request.origin, request.token, span, answer.status)
        )
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        announced = answer.announced()
        body = b"" if request.method == "HEAD" else answer.body[:announced][:cut]
        if stall is not None:
            await send({"type": "http.response.body", "body": body[: stall.stall], "more_body": True})
            await asyncio.sleep(stall.delay)
            body = body[stall.stall :]
        drip = max((fault.drip for fault in faults), default=0.0)
        while drip and body:
            await send({"type": "http.response.body", "body": body[:1], "more_body": True})
            await asyncio.sleep(drip)
            body = body[1:]
        # Fewer bytes than announced: the server drops the connection when the application returns before the end.
        lacks = request.method != "HEAD" and (cut is not None or announced > len(answer.body))
        await send({"type": "http.response.body", "body": body, "more_body": lacks})

    def _answer(self, request: Request) -> Answer:
        for method, origin, pattern, handler in ROUTES:
            if (method, origin) == (request.method, request.origin) and (match := pattern.fullmatch(request.raw_path)):
                names = {name: unquote(value) for name, value in match.groupdict().items()}
                try:
                    with self._lock:
                        return handler(self, request, **names)
                except Refusal as refusal:
                    return refusal.answer
                except Exception as error:  # a request the handler did not expect: the test must not pass
                    self.unknown.append(f"{request.method} {request.path} ({request.origin}) raised {error!r}")
                    return Answer.json({"error": repr(error)}, 500)
        self.unknown.append(f"{request.method} {request.path} ({request.origin})")
        return Answer.json({"error": "the test hub has no such route"}, 501)


# Users and repositories


@route("GET", "/api/whoami-v2")
def whoami(hub: Hub, request: Request) -> Answer:
    """Serve `whoami`, `hf auth whoami`."""
    user = hub.user_of(request)
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    orgs = [{"type": "org", "name": org} for org, members in hub.members.items() if user[0] in members]
    access = {"type": "access_token", "accessToken": {"displayName": "test", "role": user[1]}}
    return Answer.json({"type": "user", "id": user[0], "name": user[0], "orgs": orgs, "auth": access})


@route("POST", "/api/repos/create")
def create_repo(hub: Hub, request: Request) -> Answer:
    """Serve `create_repo`; it reads the url of a 409 as well when exist_ok is on."""
    wanted = request.json()
    user = hub.user_of(request)
    owner = wanted.get("organization") or (user[0] if user else "")
    author = hub.check_write(request, owner)
    if wanted.get("type") not in (None, "model"):
        raise Refusal(400, "the test hub holds models only")
    name = f"{owner}/{wanted['name']}"
    url = f"{hub.url}/{name}"
    if name in hub.repos:
        raise Refusal(409, "You already created this model repo", url=url)
    hub.create(name, private=wanted.get("private") or wanted.get("visibility") == "private")
    return Answer.json({"url": url, "name": name, "id": name, "user": author})


@route("DELETE", "/api/repos/delete")
def delete_repo(hub: Hub, request: Request) -> Answer:
    """Serve `delete_repo`."""
    wanted = request.json()
    user = hub.user_of(request)
    owner = wanted.get("organization") or (user[0] if user else "")
    repo = hub.writable(request, f"{owner}/{wanted['name']}")
    del hub.repos[repo.id]
    return Answer.json({})


@route("PUT", "/api/models/{repo}/settings")
def update_repo_settings(hub: Hub, request: Request, repo: str) -> Answer:
    """Serve `update_repo_settings`."""
    found, wanted = hub.writable(request, repo), request.json()
    if "visibility" in wanted or "private" in wanted:
        found.private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    if "gated" in wanted:
        found.gated = wanted["gated"]
    return Answer.json({"private": found.private, "gated": found.gated})


# What there is


def describe(repo: Repo, commit: Commit, blobs: bool = False) -> dict[str, Any]:
    """Describe a model with all fields; who asks for less gets a choice of them."""
    readme = commit.files.get("README.md")
    card, _ = card_problems(readme.data.decode(errors="replace")) if readme else ({}, [])
    one_or_more = {key: card.get(key) or [] for key in ("license", "datasets", "language")}
    tags = [tag for tag in (card.get("library_name"), card.get("pipeline_tag"), *(card.get("tags") or [])) if tag]
    for key, value in one_or_more.items():
        prefix = "" if key == "language" else key.removesuffix("s") + ":"
        tags += [f"{prefix}{item}" for item in (value if isinstance(value, list) else [value])]
    tags = [tag for tag in tags if isinstance(tag, str)]  # a card is anybody's
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
    for sibling in siblings if blobs else ():
        blob = commit.files[sibling["rfilename"]]
        sibling.update(size=len(blob.data), blobId=blob.oid, **blob.lfs_facts("sha256"))
    return {
        "_id": git_oid(repo.id.encode())[:24], "id": repo.id, "modelId": repo.id, "author": repo.owner,
        "sha": commit.sha, "lastModified": commit.date, "createdAt": repo.created, "private": repo.private,
        "gated": repo.gated, "disabled": False, "downloads": repo.downloads, "likes": repo.likes, "trendingScore": 0,
        "library_name": card.get("library_name"), "pipeline_tag": card.get("pipeline_tag"),
        "tags": list(dict.fromkeys(tags)), "cardData": card, "siblings": siblings,
    }  # fmt: skip


def choose(facts: dict[str, Any], request: Request, without: Sequence[str] = ()) -> dict[str, Any]:
    """Keep the fields named by repeated expand=, or else all but the dear ones."""
    chosen = request.query.get("expand")
    if chosen:
        return {key: value for key, value in facts.items() if key in ("_id", "id", *chosen)}
    return {key: value for key, value in facts.items() if key not in without}


def paged(hub: Hub, request: Request, items: list[Any]) -> Answer:
    """Answer with one page of a list; the header Link leads to the next."""
    start, size = int(request.last("cursor") or 0), min(int(request.last("limit") or hub.page), hub.page)
    headers = {}
    if start + size < len(items):
        query = urlencode(request.query | {"cursor": [str(start + size)]}, doseq=True)
        headers["Link"] = f'<{hub.url}{request.raw_path}?{query}>; rel="next"'
    return Answer.json(items[start : start + size], headers=headers)


@route("GET", "/api/models/{repo}")
@route("GET", "/api/models/{repo}/revision/{revision}")
def model_info(hub: Hub, request: Request, repo: str, revision: str = "main") -> Answer:
    """Serve `model_info`, `repo_exists`, `revision_exists`, `resolve_revision` and `snapshot_download`."""
    found = hub.readable(request, repo)
    return Answer.json(choose(describe(found, hub.revision(found, revision), request.flag("blobs")), request))


@route("GET", "/api/models")
def list_models(hub: Hub, request: Request) -> Answer:
    """Serve `list_models`; every filter must be among the tags."""
    user = hub.user_of(request)
    visible = [repo for repo in hub.repos.values() if not repo.private or hub.owns(user, repo.owner)]
    models = [describe(repo, hub.revision(repo, "main")) for repo in visible]
    if author := request.last("author"):
        models = [model for model in models if model["author"] == author]
    if search := request.last("search"):
        models = [model for model in models if search.lower() in model["id"].lower()]
    if pipeline := request.last("pipeline_tag"):
        models = [model for model in models if model["pipeline_tag"] == pipeline]
    if request.last("gated") is not None:
        models = [model for model in models if bool(model["gated"]) == request.flag("gated")]
    for tag in request.query.get("filter", []):
        models = [model for model in models if tag in model["tags"]]
    if sort := request.last("sort"):
        if sort not in ("lastModified", "createdAt", "downloads", "likes", "trendingScore"):
            raise Refusal(400, f"cannot sort by {sort}")
        models.sort(key=lambda model: model[sort], reverse=True)
    hidden = {"siblings": "full", "cardData": "cardData"}  # field -> the parameter that asks for it
    without = [name for name, parameter in hidden.items() if not request.flag(parameter)]
    return paged(hub, request, [choose(model, request, without) for model in models])


def node_of(repo: Repo, commit: Commit, path: str, hub: Hub, expand: bool) -> dict[str, Any] | None:
    """Describe a file or directory of a commit, None where there is neither."""
    blob = commit.files.get(path)
    if blob:
        node: dict[str, Any] = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.data)}
        node |= blob.lfs_facts("oid")
        if hub.xet and blob.lfs:
            node["xetHash"] = hub.xet_hashes[blob.sha256]
    else:
        within = below(commit, path)
        if not within:
            return None
        oid = git_oid(repr([(name, commit.files[name].oid) for name in within]).encode())
        node = {"type": "directory", "path": path, "oid": oid, "size": 0}
    if expand:
        # The last commit that touched it: the one before which it was different.
        last, state = commit, content_below(commit, path)
        for older in repo.history(commit):
            if content_below(older, path) != state:
                break
            last = older
        node["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    return node


def below(commit: Commit, path: str) -> list[str]:
    """List the files in a directory ("" is the top) at any depth."""
    return sorted(name for name in commit.files if not path or name.startswith(f"{path}/"))


def content_below(commit: Commit, path: str) -> dict[str, str]:
    """Return the ids of a file or of a directory's files."""
    return {name: blob.oid for name, blob in commit.files.items() if name == path or name.startswith(f"{path}/")}


@route("GET", "/api/models/{repo}/tree/{revision}")
@route("GET", "/api/models/{repo}/tree/{revision}/{path}")
def list_repo_tree(hub: Hub, request: Request, repo: str, revision: str, path: str = "") -> Answer:
    """Serve `list_repo_tree`, `list_repo_files`, `snapshot_download` and HfFileSystem."""
    found = hub.readable(request, repo)
    commit = hub.revision(found, revision)
    files = below(commit, path)
    if path and not files:
        raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
    names: set[str] = set()
    for file in files:
        parts = file.removeprefix(f"{path}/" if path else "").split("/")
        depths = range(1, len(parts) + 1) if request.flag("recursive") else (1,)
        names.update("/".join([*([path] if path else []), *parts[:depth]]) for depth in depths)
    nodes = [node_of(found, commit, name, hub, request.flag("expand")) for name in sorted(names)]
    return paged(hub, request, nodes)


@route("POST", "/api/models/{repo}/paths-info/{revision}")
def paths_info(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    """Serve `get_paths_info` (its body is a form) and HfFileSystem; missing paths are left out."""
    found = hub.readable(request, repo)
    commit = hub.revision(found, revision)
    form = parse_qs(request.body.decode())
    expand = form.get("expand", ["false"])[-1].lower() in ("1", "true")
    nodes = [node_of(found, commit, path, hub, expand) for path in form.get("paths", [])]
    return Answer.json([node for node in nodes if node is not None])


@route("GET", "/api/models/{repo}/refs")
def list_repo_refs(hub: Hub, request: Request, repo: str) -> Answer:
    """Serve `list_repo_refs`."""
    found = hub.readable(request, repo)

    def named(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": sha} for name, sha in names.items()]

    refs = {"branches": named(found.branches, "refs/heads/"), "tags": named(found.tags, "refs/tags/"), "converts": []}
    if request.flag("include_prs"):
        refs["pullRequests"] = named(found.pulls, "")
    return Answer.json(refs)


@route("GET", "/api/models/{repo}/commits/{revision}")
def list_repo_commits(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    """Serve `list_repo_commits`."""
    found = hub.readable(request, repo)
    commits = [
        {
            "id": commit.sha, "title": commit.title, "message": commit.message.partition("\n")[2].strip(),
            "date": commit.date, "authors": [{"user": commit.author}],
        }
        for commit in found.history(hub.revision(found, revision))
    ]  # fmt: skip
    return paged(hub, request, commits)


# Tags and branches


@route("POST", "/api/models/{repo}/tag/{revision}")
def create_tag(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    """Serve `create_tag`."""
    found, tag = hub.writable(request, repo), request.json()["tag"]
    if tag in found.tags:
        raise Refusal(409, f"Tag reference exists already: {tag}")
    found.tags[tag] = hub.revision(found, revision).sha
    return Answer.json({})


@route("DELETE", "/api/models/{repo}/tag/{tag}")
def delete_tag(hub: Hub, request: Request, repo: str, tag: str) -> Answer:
    """Serve `delete_tag`."""
    if hub.writable(request, repo).tags.pop(tag, None) is None:
        raise Refusal(404, f"Tag not found: {tag}", "RevisionNotFound")
    return Answer.json({})


@route("POST", "/api/models/{repo}/branch/{branch}")
def create_branch(hub: Hub, request: Request, repo: str, branch: str) -> Answer:
    """Serve `create_branch`."""
    found = hub.writable(request, repo)
    if branch in found.branches:
        raise Refusal(409, f"Reference already exists: {branch}")
    found.branches[branch] = hub.revision(found, request.json().get("startingPoint") or "main").sha
    return Answer.json({})


@route("DELETE", "/api/models/{repo}/branch/{branch}")
def delete_branch(hub: Hub, request: Request, repo: str, branch: str) -> Answer:
    """Serve `delete_branch`."""
    found = hub.writable(request, repo)
    if branch == "main":
        raise Refusal(403, "Cannot delete the default branch")
    if found.branches.pop(branch, None) is None:
        raise Refusal(404, f"Branch not found: {branch}", "RevisionNotFound")
    return Answer.json({})


# Commits


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: Hub, request: Request) -> Answer:
    """Serve the card check of `create_commit`, `upload_folder` and `ModelCard.validate`."""
    _, problems = card_problems(request.json()["content"])
    content = {"errors": [{"message": problem} for problem in problems], "warnings": []}
    return Answer.json(content, 400 if problems else 200)


@route("POST", "/api/models/{repo}/preupload/{revision}")
def preupload(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    """Tell `create_commit` how to send each file, and what the present one is, so that it sends no file again."""
    files = hub.revision(hub.writable(request, repo), revision).files
    answers = []
    for file in request.json()["files"]:
        mode = "lfs" if is_large(file["path"], file["size"]) else "regular"
        answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
        if present := files.get(file["path"]):
            answer["oid"] = present.etag
        answers.append(answer)
    return Answer.json({"files": answers})


@route("POST", "/api/models/{repo}/commit/{revision}")
def create_commit(hub: Hub, request: Request, repo: str, revision: str) -> Answer:
    """Serve `create_commit`: one JSON object a line, the header and then the operations."""
    found = hub.writable(request, repo)
    user = hub.user_of(request)
    head = hub.revision(found, revision)
    header: dict[str, Any] = {}
    changes: dict[str, bytes | None] = {}
    for line in request.body.splitlines():
        entry = json.loads(line)
        kind, value = entry["key"], entry["value"]
        path = value.get("path", "")
        if kind == "header":
            header = value
        elif kind == "file":
            content = value["content"]
            changes[path] = b64decode(content) if value.get("encoding") == "base64" else content.encode()
        elif kind == "lfsFile":
            if value["oid"] not in hub.objects:
                raise Refusal(400, f"{path} points to an LFS object that was not uploaded")
            changes[path] = hub.objects[value["oid"]]
        elif kind in ("deletedFile", "deletedFolder"):
            gone = [path] if path in head.files else below(head, path.rstrip("/")) if kind == "deletedFolder" else []
            if not gone:
                raise Refusal(404, f"{path} does not exist, so it cannot be deleted", "EntryNotFound")
            changes.update(dict.fromkeys(gone))
        else:
            raise Refusal(400, f"unknown operation {kind}")
    parent = header.get("parentCommit")
    if parent and parent != head.sha:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    if readme := changes.get("README.md"):
        _, problems = card_problems(readme.decode(errors="replace"))
        if problems:
            raise Refusal(400, f"Invalid metadata in README.md: {problems[0]}")
    pull = f"refs/pr/{len(found.pulls) + 1}" if request.flag("create_pr") else None
    message = "\n\n".join(filter(None, (header.get("summary"), header.get("description")))) or "Upload"
    sha = hub.commit(repo, changes, message, pull or revision, user[0] if user else "", head.sha)
    answer = {"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/{repo}/commit/{sha}"}
    if pull:
        answer["pullRequestUrl"] = f"{hub.url}/{repo}/discussions/{len(found.pulls)}"
    return Answer.json(answer)


# Large files by git LFS


@route("POST", "/{repo}.git/info/lfs/objects/batch")
def lfs_batch(hub: Hub, request: Request, repo: str) -> Answer:
    """Tell where to put large files; those that are there get no action."""
    hub.writable(request, repo)
    objects = []
    for wanted in request.json()["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in hub.objects:
            answer["actions"] = {
                "upload": {"href": f"{hub.cdn_url}/lfs/{wanted['oid']}"},
                "verify": {"href": f"{hub.url}/{repo}.git/info/lfs/verify"},
            }
        objects.append(answer)
    return Answer.json({"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/{oid}", "cdn")
def lfs_put(hub: Hub, request: Request, oid: str) -> Answer:
    """Take a large file; on the Hub a signed link allows that, so the client sends no token."""
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refusal(400, "the content has another sha256")
    hub.objects[oid] = request.body
    return Answer()


@route("POST", "/{repo}.git/info/lfs/verify")
def lfs_verify(hub: Hub, request: Request, repo: str) -> Answer:
    """Confirm that a large file has arrived."""
    hub.writable(request, repo)
    wanted = request.json()
    if len(hub.objects.get(wanted["oid"], b"")) != wanted["size"]:
        raise Refusal(404, "no such object")
    return Answer.json({})


# Downloads


def ranged(request: Request, data: bytes, headers: dict[str, str]) -> Answer:
    """Answer with all of the data, or with the part that the header Range asks for."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if match is None:
        return Answer(200, data, {"Accept-Ranges": "bytes", **headers})
    start, end = span_of(match, len(data))
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
    return Answer(206, data[start:end], headers)


def span_of(match: re.Match[str], size: int) -> tuple[int, int]:
    """Turn a range, inclusive or counted from the end, into start and end (exclusive)."""
    first, last = match.groups()
    start = int(first) if first else max(size - int(last or 0), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= size:
        raise Refusal(416, "the range lies beyond the end")
    return start, end


@route("HEAD GET", "/{repo}/resolve/{revision}/{path}")
def resolve(hub: Hub, request: Request, repo: str, revision: str, path: str) -> Answer:
    """Serve `hf_hub_download`, `get_hf_file_metadata` and HfFileSystem; large files are on the CDN."""
    found = hub.readable(request, repo, content=True)
    commit = hub.revision(found, revision)
    blob = commit.files.get(path)
    headers = {"X-Repo-Commit": commit.sha}
    if blob is None:
        refusal = Refusal(404, f"Entry not found: {path}", "EntryNotFound")
        refusal.answer.headers.update(headers)
        raise refusal
    if not blob.lfs:
        headers |= {"ETag": f'"{blob.oid}"', "Content-Type": "text/plain; charset=utf-8"}
        return ranged(request, blob.data, headers)
    headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    headers["Location"] = f"{hub.cdn_url}/lfs/{blob.sha256}/{quote(repo)}/{quote(path)}"
    if hub.xet:
        token = f"{hub.url}/api/models/{repo}/xet-read-token/{commit.sha}"
        headers |= {"X-Xet-Hash": hub.xet_hashes[blob.sha256], "Link": f'<{token}>; rel="xet-auth"'}
    return Answer(302, headers=headers)


@route("HEAD GET", "/lfs/{oid}/{path}", "cdn")
def lfs_get(hub: Hub, request: Request, oid: str, path: str) -> Answer:
    """Serve a large file; its name is in the path for the sake of faults and of the log only."""
    if oid not in hub.objects:
        raise Refusal(404, "no such object")
    headers = {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream"}
    return ranged(request, hub.objects[oid], headers)


# Large files by Xet: a file is a list of terms, a term a run of chunks in a xorb

XET_TOKENS = {"write": "xet-write", "read": "xet-read"}  # the storage knows these tokens only, never the hub's
CHUNK = 65536  # bytes of a chunk of a file written by the test


def pack_xorb(data: bytes) -> bytes:
    """Pack content as chunks without compression."""
    packed = []
    for start in range(0, len(data), CHUNK):
        chunk = data[start : start + CHUNK]
        size = len(chunk).to_bytes(3, "little")
        packed += [b"\0" + size + b"\0" + size, chunk]
    return b"".join(packed)


def chunks_of(xorb: bytes) -> list[tuple[int, int]]:
    """List where the chunks of a xorb start and end; each has a header of 8 bytes, and a footer may follow them."""
    spans, start = [], 0
    while start + 8 <= len(xorb) and xorb[start] == 0:  # the version; the footer begins with a letter
        end = start + 8 + int.from_bytes(xorb[start + 1 : start + 4], "little")
        spans.append((start, end))
        start = end
    return spans


def unpack_chunk(chunk: bytes) -> bytes:
    """Decompress a chunk: its header holds version, packed size, compression and unpacked size."""
    compression, size, data = chunk[4], int.from_bytes(chunk[5:8], "little"), chunk[8:]
    if compression == 0:
        return data
    data = bytes(pyarrow.decompress(data, size, codec="lz4", asbytes=True))
    if compression == 1:
        return data
    grouped, start = bytearray(size), 0  # compression 2 sorts the bytes by their place in groups of four, then packs
    for place in range(4):
        count = len(range(place, size, 4))
        grouped[place::4] = data[start : start + count]
        start += count
    return bytes(grouped)


def xet_name(raw: bytes) -> str:
    """Write a hash as Xet does: as four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def files_of_shard(shard: bytes) -> Iterator[tuple[str, str, list[Term]]]:
    """Read the file part of a shard: for each file its Xet hash, its sha256 and its terms. All records have 48 bytes."""
    start = 48  # past the header
    while (raw := shard[start : start + 32]) != b"\xff" * 32:  # a mark closes the part
        flags, count = struct.unpack_from("<II", shard, start + 32)
        terms, sha256 = [], ""
        for record in range(start + 48, start + 48 * (count + 1), 48):
            xorb, _, size, first, end = struct.unpack_from("<32sIIII", shard, record)
            terms.append(Term(xet_name(xorb), first, end, size))
        start += 48 * (count + 1)
        if flags & 1 << 31:  # a record for each term, to verify it
            start += 48 * count
        if flags & 1 << 30:  # the sha256 of the whole
            sha256 = xet_name(shard[start : start + 32])
            start += 48
        yield xet_name(raw), sha256, terms


@route("GET", "/api/models/{repo}/xet-{kind}-token/{revision}")
def xet_token(hub: Hub, request: Request, repo: str, kind: str, revision: str) -> Answer:
    """Hand out a token for the Xet storage; `upload_file` and `hf_hub_download` ask before they use it."""
    if not hub.xet or kind not in XET_TOKENS:
        raise Refusal(404, "no Xet here")
    found = hub.writable(request, repo) if kind == "write" else hub.readable(request, repo, content=True)
    hub.revision(found, revision)
    token, expires = XET_TOKENS[kind], int(time.time()) + 3600
    headers = {
        "X-Xet-Cas-Url": hub.cdn_url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires),
    }  # fmt: skip
    return Answer.json({"casUrl": hub.cdn_url, "accessToken": token, "exp": expires}, headers=headers)


def check_xet_token(request: Request, *kinds: str) -> None:
    """Refuse who does not show one of the storage's own tokens."""
    if request.token not in [XET_TOKENS[kind] for kind in kinds]:
        raise Refusal(401, "not a token of this storage")


@route("POST", "/v1/xorbs/default/{xorb}", "cdn")
def put_xorb(hub: Hub, request: Request, xorb: str) -> Answer:
    """Take a xorb: chunks of the files that are being uploaded."""
    check_xet_token(request, "write")
    inserted = xorb not in hub.xorbs
    hub.xorbs[xorb] = request.body
    return Answer.json({"was_inserted": inserted})


@route("POST", "/v1/shards", "cdn")
def put_shard(hub: Hub, request: Request) -> Answer:
    """Take a shard, which says how files are made of xorbs; rebuild them, so that they are there by sha256 too."""
    check_xet_token(request, "write")
    for file, sha256, terms in files_of_shard(request.body):
        pieces = []
        for term in terms:
            if term.xorb not in hub.xorbs:
                raise Refusal(400, f"xorb {term.xorb} was not uploaded")
            xorb = hub.xorbs[term.xorb]
            pieces += [unpack_chunk(xorb[start:end]) for start, end in chunks_of(xorb)[term.start : term.end]]
        data = b"".join(pieces)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Refusal(400, f"the xorbs of file {file} give another sha256")
        hub.objects[sha256], hub.xet_files[file], hub.xet_hashes[sha256] = data, terms, file
    return Answer.json({"result": 1})


@route("GET", "/v1/reconstructions/{file}", "cdn")
def reconstruction(hub: Hub, request: Request, file: str) -> Answer:
    """Tell from which bytes of which xorbs a file, or a range of it, is made."""
    check_xet_token(request, "read", "write")
    if file not in hub.xet_files:
        raise Refusal(404, "no such file")
    start, end = 0, sum(term.size for term in hub.xet_files[file])
    if match := re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "")):
        start, end = span_of(match, end)
    offset = skipped = 0
    terms: list[dict[str, Any]] = []
    fetch: dict[str, list[dict[str, Any]]] = {}
    for term in hub.xet_files[file]:
        if offset + term.size > start and offset < end:
            skipped = start - offset if not terms else skipped
            chunks = {"start": term.start, "end": term.end}
            terms.append({"hash": term.xorb, "unpacked_length": term.size, "range": chunks})
            spans = chunks_of(hub.xorbs[term.xorb])[term.start : term.end]
            url_range = {"start": spans[0][0], "end": spans[-1][1] - 1}  # inclusive, as in the header Range
            source = {"range": chunks, "url": f"{hub.cdn_url}/xorbs/{term.xorb}", "url_range": url_range}
            fetch.setdefault(term.xorb, []).append(source)
        offset += term.size
    return Answer.json({"offset_into_first_range": skipped, "terms": terms, "fetch_info": fetch})


@route("GET", "/xorbs/{xorb}", "cdn")
def get_xorb(hub: Hub, request: Request, xorb: str) -> Answer:
    """Serve bytes of a xorb; on the Hub by a signed link, so without token."""
    if xorb not in hub.xorbs:
        raise Refusal(404, "no such xorb")
    return ranged(request, hub.xorbs[xorb], {"Content-Type": "application/octet-stream"})


# What clients try and can do without


@route("GET", "/api/agent-harnesses")
@route("POST", "/v1/telemetry", "cdn")
@route("POST", "/v2/shards", "cdn")
@route("GET", "/v2/reconstructions/{file}", "cdn")
@route("GET POST", "/v1/xorb-grants/{path}", "cdn")
@route("GET", "/v1/chunks/{path}", "cdn")
def absent(hub: Hub, request: Request, **_: str) -> Answer:
    """Answer 404, upon which the client takes the old way or does without."""
    raise Refusal(404, "not offered")
