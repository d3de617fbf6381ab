"""Models on the Hugging Face Hub: fetched whole and checked to the last byte, and listed.

A revision becomes a commit once, and the commit's listing gives names, sizes and hashes of its files. Each file is read by
plain HTTP into a private folder, held against its hash, and only then put into the cache of huggingface_hub, under names
that come from the listing: no header of an answer becomes a path. (Xet, which huggingface_hub would use, shows nobody
how far it is, and cannot be stopped.) Every answer has a limit in bytes and in time. The cache is hashed each time a model
is resolved.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import queue
import re
import tempfile
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, TypeVar

from huggingface_hub import constants, errors, get_session, get_token, hf_hub_url
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, httpx, tqdm, validate_repo_id  # type: ignore[attr-defined]

from hashzoo.errors import HubError, UnreachableError, WeightsError
from hashzoo.files import LIMITS, write_text
from hashzoo.zoo.location import Files, Location

REQUIRED = ("config.json", "model.safetensors")
FILES = tuple(LIMITS)
MAX_JSON = 16 << 20  # bytes of an answer that is parsed
MAX_PAGES = 50  # of the list of models; the Hub puts 1,000 on each
HOPS = 10  # redirects that are followed
# seconds that a request may take besides one for each FLOOR bytes; a silence ends it after HF_HUB_DOWNLOAD_TIMEOUT (10)
PATIENCE = max(30.0, constants.HF_HUB_DOWNLOAD_TIMEOUT)
SHORT_PATIENCE = 2.0  # where the cache has the model, and the question is only whether there is a newer one
FLOOR = 10_000  # bytes a second
PREFIX = "hf-hub:"
OFFICIAL = "https://huggingface.co"

T = TypeVar("T")
_access: ContextVar[tuple[str | bool | None, bool]] = ContextVar("access", default=(None, False))


@contextlib.contextmanager
def access(token: str | bool | None = None, local_files_only: bool = False) -> Iterator[None]:
    """Set how the Hub is reached inside a `with`, in the terms of huggingface_hub.

    Args:
        token: in place of the user's own; False sends none.
        local_files_only: ask the Hub nothing.

    >>> with access(token="mine"):
    ...     user_token()
    'mine'
    """
    before = _access.set((token, local_files_only))
    try:
        yield
    finally:
        _access.reset(before)


def user_token(*, to_write: bool = False) -> str | None:
    """The token to send where one is needed; `HF_HUB_DISABLE_IMPLICIT_TOKEN=1` keeps it for writing."""
    token, _ = _access.get()
    if isinstance(token, str):
        return token
    if token is False or (token is None and constants.HF_HUB_DISABLE_IMPLICIT_TOKEN and not to_write):
        return None
    return get_token()


@dataclass(frozen=True)
class HubModel:
    """What the Hub says of a model, from its tags and card.

    Attributes:
        name: `org/repo`; `hf-hub:org/repo` loads it.
        map: the first result's mAP, 0 to 1, under `protocol`.
        commit: of the default branch.
        readable: False where the card's results, or the whole entry, do not follow the Hub's form.
    """

    name: str
    bits: int | None = None
    dataset: str | None = None
    protocol: str | None = None
    map: float | None = None
    license: str | None = None
    downloads: int | None = None
    commit: str | None = None
    readable: bool = True


@dataclass
class Meter:
    """How far a request is; more bytes lengthen the time that it has.

    Attributes:
        bytes: that came or, where that cannot be seen, that have to go.
        stopped: nobody waits for it any more.
    """

    bytes: int = 0
    stopped: bool = False


def parse(name: str) -> tuple[str, str]:
    """Split `hf-hub:org/repo[@revision]` into repository and revision.

    Raises:
        HubError: the Hub allows no such name.

    >>> parse("hf-hub:zoo/dahp@v1"), parse("hf-hub:zoo/dahp")
    (('zoo/dahp', 'v1'), ('zoo/dahp', 'main'))
    """
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    check_repo(repo)
    return repo, revision or constants.DEFAULT_REVISION


def check_repo(repo: str) -> None:
    """Refuse a name that the Hub does not allow.

    Raises:
        HubError: it is not `org/name`, or has characters that the Hub refuses.
    """
    try:
        validate_repo_id(repo)
    except errors.HFValidationError as error:
        raise HubError(f"{repo!r} is no name of the Hub ({error}); write org/name.") from error
    if repo.count("/") != 1:
        raise HubError(f"{repo!r} is no name of the Hub; write org/name.")


def fetch(repo: str, revision: str = "main", pinned: Files | None = None, wanted: tuple[str, ...] = FILES) -> Location:
    """Find a model of the Hub in the cache, downloading what that lacks.

    Args:
        repo: `org/name`.
        revision: branch, tag or commit; a cached commit whose hashes are known is used without any request.
        pinned: name -> (sha256, bytes), where the zoo's index knows them; else the Hub's own hashes of the commit count.
        wanted: which of the known files; those that the repository lacks are left out, but never config or weights.

    Raises:
        HubError: there is no such model, it may not be read, or the Hub answers what cannot be trusted.
        UnreachableError: the Hub cannot be reached and the cache does not have the model.
        WeightsError: a file is not what the Hub or the index says, downloaded twice.
    """
    commit = revision if _is_hex(revision, 40) else None
    known = pinned or (recorded(repo, commit) if commit else None)
    if commit and known and not _wrong(repo, commit, _choose(known, wanted)):
        return _location(repo, commit, known)
    token: bool | str = False
    kept = _kept(repo, revision)  # to fall back on
    there = (pinned or recorded(repo, kept)) if kept else None
    try:
        if pinned is None or commit is None:
            names = _choose(there, wanted) if there is not None else REQUIRED
            whole = kept and all((snapshot(repo, kept) / name).exists() for name in names)
            commit, known, token = list_files(repo, revision, SHORT_PATIENCE if whole else None)
        known = known or {}
        files = _choose(known, wanted)
        for name in REQUIRED:
            if name not in known:
                raise HubError(f"{repo} is no model of hashzoo: it has no {name}.")
        _record(repo, f"{commit}.json", json.dumps(known))  # first, so that a part is never taken for the whole
        wrong = _wrong(repo, commit, files)
        for name in wrong:
            token = download(repo, commit, name, files[name], token)
    except UnreachableError as error:
        lacking = _lacking(repo, kept, there, wanted) if kept else []
        if kept and not lacking:
            return _location(repo, kept, there)
        state = f"whole in the cache ({lacking[0]} is missing or damaged)" if kept else "in the cache"
        raise UnreachableError(
            f"{error} {repo} is not {state}: go online, put its folder under $HASHZOO_PATH, or load 'local-dir:FOLDER'."
        ) from error
    if wrong and (wrong := _wrong(repo, commit, files)):
        raise WeightsError(f"{wrong[0]} of {repo} changed in {constants.HF_HUB_CACHE} while it was fetched; try again.")
    if revision != commit:
        _record(repo, _revision_file(revision), commit)
    return _location(repo, commit, known)


def _location(repo: str, commit: str, files: Files | None) -> Location:
    return Location(snapshot(repo, commit), repo, commit, files or {})


def list_hub(
    *,
    author: str | None = None,
    dataset: str | None = None,
    method: str | None = None,
    bits: int | None = None,
    license: str | None = None,
) -> list[HubModel]:
    """List hashzoo's models on the Hub, most downloaded first.

    An entry that does not follow the Hub's form is listed as not readable; the others are none the worse.

    Raises:
        HubError: the Hub does not answer, or not with a list.
    """
    tags = ["hashzoo", method, f"{bits}-bit" if bits else None]
    tags += [f"dataset:{dataset}" if dataset else None, f"license:{license}" if license else None]
    query = [("filter", tag) for tag in tags if tag] + ([("author", author)] if author else [])
    query += [("sort", "downloads"), ("full", "true"), ("cardData", "true")]
    what, meter = "the list of models", Meter()

    def models(token: bool | str, query: list[tuple[str, str]] = query) -> list[HubModel]:
        found = list[HubModel]()
        for _ in range(MAX_PAGES):
            try:
                page, more = _read_json("/api/models", query, token, what, meter)
            except HubError:  # somebody's card makes it too large or too deep; tags tell the most
                query = [(key, value) for key, value in query if key != "cardData"]
                page, more = _read_json("/api/models", query, token, what, meter)
            if not isinstance(page, list):
                raise HubError(f"{constants.ENDPOINT} answers for {what} with something else; do not trust it.")
            found += [_describe(entry) for entry in page]
            if more is None:
                return found
            query = urllib.parse.parse_qsl(urllib.parse.urlsplit(more).query)  # never another address
        raise HubError(f"The list of models has over {MAX_PAGES} pages; narrow it, with --author for example.")

    return ask(models, what, meter=meter)[0]


def ask(
    call: Callable[[bool | str], T],
    what: str,
    token: bool | str = False,
    meter: Meter | None = None,
    patience: float | None = None,
) -> tuple[T, bool | str]:
    """Make a request without a token, and with the user's own only if the Hub wants one; give the token that served.

    Args:
        call: makes the request with the token it is given; False is none. It runs in a thread, which is left to itself when
            time is up, since nothing else ends what hangs in a name server, a handshake or a library.
        what: is named in errors.
        token: what to begin with.
        meter: `call` counts the bytes that come with it, or they are known before; they lengthen the time it has.
        patience: seconds besides; default `PATIENCE`.

    Raises:
        HubError: the Hub refuses, does not know it, or fails.
        UnreachableError: there is no way to the Hub, or it is silent or too slow.
    """
    if _access.get()[1]:
        raise UnreachableError("The Hub is not asked (local_files_only).")
    meter, patience = meter or Meter(), PATIENCE if patience is None else patience
    try:
        check_address(constants.ENDPOINT)
        try:
            return _in_time(lambda: call(token), meter, patience), token
        except errors.HfHubHTTPError as error:
            mine = user_token()
            if token or not mine or error.response.status_code not in (401, 403):
                raise
            warn_of_endpoint()
            return _in_time(lambda: call(mine), meter, patience), mine
    except errors.OfflineModeIsEnabled as error:
        raise UnreachableError("The Hub is switched off (HF_HUB_OFFLINE=1).") from error
    except (
        errors.HfHubHTTPError,
        httpx.HTTPError,
        httpx.InvalidURL,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise _explain(error, what) from error


def _in_time(call: Callable[[], T], meter: Meter, patience: float) -> T:
    """Wait for a call in a thread, for `patience` seconds and one more for each FLOOR bytes that the meter shows.

    Raises:
        TimeoutError: it did not end in that time.
    """
    ends: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()
    context, meter.stopped = copy_context(), False

    def run() -> None:
        try:
            ends.put(([context.run(call)], None))
        except BaseException as error:  # raised where somebody waits for it
            ends.put(([], error))

    deadline = time.monotonic() + patience
    threading.Thread(target=run, name="hub", daemon=True).start()
    try:
        while (left := deadline + meter.bytes / FLOOR - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                result, error = ends.get(timeout=left)
                if error is not None:
                    raise error
                return result[0]
    finally:
        meter.stopped = True
    raise TimeoutError


def check_address(address: str) -> None:
    """Refuse to talk in plain http to another machine.

    Raises:
        HubError: it is not https, nor http of a loopback or, with `HASHZOO_ALLOW_HTTP=1`, another endpoint that is http.
    """
    url, endpoint = urllib.parse.urlsplit(address), urllib.parse.urlsplit(constants.ENDPOINT)
    trusted = url.hostname in ("localhost", "127.0.0.1", "::1") or os.environ.get("HASHZOO_ALLOW_HTTP") == "1"
    if url.scheme != "https" and not (url.scheme == endpoint.scheme == "http" and trusted):
        raise HubError(
            f"{url.scheme}://{url.netloc} is not https, so anybody on the way could change what comes; set HF_ENDPOINT to an "
            "address with https, or HASHZOO_ALLOW_HTTP=1 in a network you trust."
        )


def warn_of_endpoint() -> None:
    """Warn before the user's token goes to another Hub than the official one."""
    if constants.ENDPOINT.rstrip("/") != OFFICIAL:
        warnings.warn(
            f"Your Hugging Face token goes to {constants.ENDPOINT}, which is not {OFFICIAL}.", UserWarning, stacklevel=2
        )


def list_files(repo: str, revision: str, patience: float | None = None) -> tuple[str, Files, bool | str]:
    """Resolve a revision, and read names, sizes and hashes of its known files: one request.

    Args:
        repo: `org/name`.
        revision: branch, tag or commit.
        patience: as for `ask`.

    Returns:
        The commit, the files, and the token that served.

    Raises:
        HubError: the Hub has no such repository or revision, or answers what is no hash, or a size that no such file has.
    """
    what, meter = f"{repo} at {revision}", Meter()
    path = f"/api/models/{repo}/revision/{urllib.parse.quote(revision, safe='')}"
    query = [("blobs", "true")]
    (info, _), token = ask(
        lambda token: _read_json(path, query, token, what, meter), what, meter=meter, patience=patience
    )
    info = info if isinstance(info, dict) else {}
    commit, siblings = info.get("sha"), info.get("siblings")
    if not _is_hex(commit, 40) or not isinstance(siblings, list):
        raise HubError(f"{constants.ENDPOINT} answers {commit!r:.60} as the commit of {repo}; do not trust it.")
    files: Files = {}
    for sibling in siblings:
        name = sibling.get("rfilename") if isinstance(sibling, dict) else None
        if name not in FILES:
            continue
        lfs = sibling.get("lfs")
        facts = (lfs.get("sha256") if isinstance(lfs, dict) else sibling.get("blobId"), sibling.get("size"))
        if name in files:
            raise HubError(f"{constants.ENDPOINT} lists {name} of {repo} twice; do not trust it.")
        files[name] = _check_file(repo, name, *facts)
    return commit, files, token


def _check_file(repo: str, name: str, digest: Any, size: Any) -> tuple[str, int]:
    """Give a file's hash and size, or refuse what is none, or too large, before anything is downloaded."""
    if not (_is_hex(digest, 64) or _is_hex(digest, 40)) or type(size) is not int or size < 0:
        raise HubError(f"{constants.ENDPOINT} gives no hash or size of {repo}/{name}; do not trust it.")
    if size > LIMITS[name]:
        raise HubError(
            f"{name} of {repo} has {size / 1e6:,.0f} MB, more than the {LIMITS[name] / 1e6:,.0f} MB that hashzoo takes."
        )
    return digest, size


def download(repo: str, commit: str, name: str, expected: tuple[str, int], token: bool | str = False) -> bool | str:
    """Download one file, check it, and put it into the cache; once more if it is wrong. Return the token that served.

    Raises:
        HubError: the Hub refuses, or answers what cannot be trusted.
        WeightsError: twice the file was not the expected one.
    """
    digest, size = _check_file(repo, name, *expected)
    what = f"{name} of {repo} at {commit[:12]}"
    address = hf_hub_url(repo, name, revision=commit)
    try:
        path, blob, ours = snapshot(repo, commit) / name, _home(repo) / "blobs" / digest, _home(repo) / "hashzoo"
        for folder in (path.parent, blob.parent, ours):
            folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            with tempfile.TemporaryDirectory(dir=ours, ignore_cleanup_errors=True) as private:
                if file_matches(blob, digest, size):
                    _link(blob, path, Path(private))
                    return token
                partial, meter = Path(private, name), Meter()

                def get(token: bool | str, partial: Path = partial, meter: Meter = meter) -> None:
                    with (
                        partial.open("wb") as file,
                        tqdm(desc=name, total=size, unit="B", unit_scale=True, disable=None) as bar,
                    ):
                        _read(address, token, file, size, what, meter, commit, bar)

                _, token = ask(get, what, token, meter)
                if file_matches(partial, digest, size):
                    partial.replace(blob)
                    _link(blob, path, Path(private))
                    return token
    except OSError as error:
        raise _explain(error, what) from error
    raise WeightsError(
        f"{what} is not the published one (its hash differs, downloaded twice); nothing was loaded. Try again later, or "
        "tell the model's owner."
    )


def _link(blob: Path, path: Path, private: Path) -> None:
    """Put a blob into a snapshot as huggingface_hub does: by a relative link, or itself where links are not to be had."""
    link = private / "link"
    try:
        link.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        link = blob
    link.replace(path)


def _read_json(
    path: str, query: list[tuple[str, str]], token: bool | str, what: str, meter: Meter
) -> tuple[Any, str | None]:
    """Read a JSON answer, and the address of the next page if there is one.

    Raises:
        HubError: it is no JSON, too deep or too large; or as `_read`.
    """
    file = io.BytesIO()
    address = f"{constants.ENDPOINT}{path}?{urllib.parse.urlencode(query)}"
    links = _read(address, token, file, MAX_JSON, what, meter).links
    try:
        return json.loads(file.getvalue(), parse_int=_int), links.get("next", {}).get("url")
    except RecursionError as error:
        raise HubError(f"{constants.ENDPOINT} answers for {what} with too deep a JSON; do not trust it.") from error
    except ValueError as error:
        raise HubError(f"{constants.ENDPOINT} answers for {what} with what is no JSON; do not trust it.") from error


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)  # Python refuses, for all, what is longer than 4,300


def _read(
    address: str, token: bool | str, file: BinaryIO, limit: int, what: str, meter: Meter,
    commit: str | None = None, bar: Any = None,
) -> httpx.Response:  # fmt: skip
    """Read an answer's body into a file, from where it broke off if it does; with `commit` it is a file of `limit` bytes.

    Raises:
        HubError: it is larger than `limit`, packed, from plain http elsewhere, or its headers contradict the listing.
        HfHubHTTPError, httpx.HTTPError: the Hub refuses, fails, or breaks off three times.
    """
    for wait in (1, 2, None):
        try:
            return _read_once(address, token, file, limit, what, meter, commit, bar)
        except (errors.HfHubHTTPError, httpx.NetworkError, httpx.RemoteProtocolError) as error:
            passing = _status(error) in (None, 429, 500, 502, 503, 504) and not isinstance(error, httpx.ConnectError)
            if wait is None or not passing or meter.stopped:
                raise
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _read_once(
    address: str, token: bool | str, file: BinaryIO, limit: int, what: str, meter: Meter, commit: str | None, bar: Any
) -> httpx.Response:
    session = get_session()
    headers = {**build_hf_headers(token=token, library_name="hashzoo"), "Accept-Encoding": "identity"}
    if commit:
        headers["X-HF-Download-Counter"] = "1"
    if file.tell():
        headers["Range"] = f"bytes={file.tell()}-"
    first = request = session.build_request("GET", address, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    for _ in range(HOPS):
        check_address(str(request.url))
        answer = session.send(request, stream=True, follow_redirects=False)
        with contextlib.closing(answer):
            if commit and request is first:
                _check_headers(answer.headers, commit, limit, what)
            if answer.next_request is not None:
                request = answer.next_request
                continue
            if answer.status_code not in (200, 206):  # what else it says is left unread
                said = {
                    key: answer.headers[key] for key in ("X-Error-Code", "X-Error-Message") if key in answer.headers
                }
                hf_raise_for_status(httpx.Response(answer.status_code, headers=said, request=first))
                raise HubError(f"The Hub answers {answer.status_code} for {what}; try again later.")
            if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise HubError(f"{constants.ENDPOINT} packs {what}, which was asked for as it is; do not trust it.")
            if answer.status_code == 200:
                file.seek(0)
                file.truncate()
            too_large = HubError(f"{constants.ENDPOINT} sends over {limit:,} bytes for {what}; do not trust it.")
            if file.tell() + int(answer.headers.get("Content-Length", 0)) > limit:
                raise too_large
            for piece in answer.iter_raw():
                if meter.stopped:
                    raise TimeoutError
                if file.tell() + len(piece) > limit:
                    raise too_large
                file.write(piece)
                meter.bytes += len(piece)
                if bar is not None:
                    bar.update(file.tell() - bar.n)
            return answer
    raise HubError(f"{constants.ENDPOINT} sends on over {HOPS} times for {what}; do not trust it.")


def _check_headers(headers: httpx.Headers, commit: str, size: int, what: str) -> None:
    """Refuse an endpoint that contradicts its own listing; nothing else comes of these headers."""
    etags = [headers[key].removeprefix("W/").strip('"') for key in ("ETag", "X-Linked-Etag") if key in headers]
    if headers.get("X-Repo-Commit", commit) != commit or not all(_is_hex(tag, 40) or _is_hex(tag, 64) for tag in etags):
        raise HubError(
            f"{constants.ENDPOINT} answers for {what} with an etag or commit that is no hash of it; do not trust it."
        )
    if headers.get("X-Linked-Size", str(size)) != str(size):
        raise HubError(f"{constants.ENDPOINT} gives another size of {what} than it lists; do not trust it.")


def matches(data: bytes, digest: str, size: int) -> bool:
    """Say whether a file's bytes have this size and hash: sha256 (64 digits), or git's sha1 of a blob (40 digits)."""
    return len(data) == size and _hash(io.BytesIO(data), digest, size) == digest


def file_matches(path: Path, digest: str, size: int) -> bool:
    """Say whether a file is there with this size and hash; it is read in pieces."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return _hash(file, digest, size) == digest


def _hash(file: io.BytesIO | io.BufferedReader, like: str, size: int) -> str:
    def git() -> Any:
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)

    return hashlib.file_digest(file, "sha256" if len(like) == 64 else git).hexdigest()


def _choose(files: Files, wanted: tuple[str, ...]) -> Files:
    return {name: files[name] for name in wanted if name in files}


def _wrong(repo: str, commit: str, files: Files) -> list[str]:
    """Names of files that the cache lacks, or holds damaged or outside of itself."""
    paths, cache = {name: snapshot(repo, commit) / name for name in files}, Path(constants.HF_HUB_CACHE).resolve()
    return [
        name
        for name, path in paths.items()
        if not path.resolve().is_relative_to(cache) or not file_matches(path, *files[name])
    ]


def _home(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))


def snapshot(repo: str, commit: str) -> Path:
    """Where the cache keeps a commit's files."""
    return _home(repo) / "snapshots" / commit


def _record(repo: str, name: str, text: str) -> None:
    """Keep a commit's hashes, or a revision's commit, beside the files: to check and find them without a network."""
    folder = _home(repo) / "hashzoo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, text)
    except OSError:
        pass  # a cache that cannot be written still serves; only a later look needs the Hub again


def _revision_file(revision: str) -> str:
    return f"{urllib.parse.quote(revision, safe='')}.revision"


def recorded(repo: str, commit: str) -> Files | None:
    """What a commit of a model that was looked at before holds: names, hashes and sizes; None if that is not known."""
    try:
        kept = json.loads((_home(repo) / "hashzoo" / f"{commit}.json").read_text(encoding="utf-8"))
        return {name: (str(digest), int(size)) for name, (digest, size) in kept.items() if name in FILES}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _kept(repo: str, revision: str) -> str | None:
    """The commit that a revision was when last seen, if the cache has any of its files."""
    commit = revision
    if not _is_hex(revision, 40):
        # a cache that was filled by hand has refs/ alone
        places = [_home(repo) / "hashzoo" / _revision_file(revision), _home(repo) / "refs" / revision]
        inside = [place for place in places if _home(repo) in place.parents and ".." not in place.parts]
        kept = [place.read_bytes().strip().decode(errors="replace") for place in inside if place.is_file()]
        commit = next((text for text in kept if _is_hex(text, 40)), "")
    return commit if commit and snapshot(repo, commit).is_dir() else None


def _lacking(repo: str, commit: str, files: Files | None, wanted: tuple[str, ...]) -> list[str]:
    """The files that the cache lacks of a commit."""
    if files is not None:
        return _wrong(repo, commit, _choose(files, wanted))
    # nothing says what the commit holds; config.json's own hash of the weights is checked on opening
    return [name for name in REQUIRED if name in wanted and not (snapshot(repo, commit) / name).exists()]


def _is_hex(text: Any, digits: int) -> TypeGuard[str]:
    return isinstance(text, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) is not None


def _explain(error: Exception, what: str) -> HubError:
    """Say in a sentence what happened, and the way out."""
    while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # an upload's own reason
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"Access to {what} is gated: ask for it on the model's page, then log in with `hf auth login`.")
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"The Hub does not have {what}: no such branch, tag or commit; leave it out for the newest.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"The Hub has no {what}, or you may not see it; check the name, or log in with `hf auth login`."
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return HubError(f"The Hub does not have {what}; the repository may have changed, look at its page.")
    status = _status(error)
    if status in (401, 403):
        return HubError(f"The Hub refuses {what} ({status}); log in with `hf auth login` as someone who may do that.")
    if status == 412:
        return HubError(
            f"{what} changed on the Hub meanwhile; nothing was uploaded. Look at the change, then try again."
        )
    if status is not None:
        return HubError(f"The Hub answers {status} for {what}; try again later.")
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return UnreachableError(f"The Hub is silent or too slow for {what}; try again later.")
    if isinstance(error, httpx.HTTPError | ConnectionError):
        return UnreachableError(f"The Hub cannot be reached for {what} ({type(error).__name__}).")
    disk = _disk(error)
    if disk is not None:
        return HubError(f"{what} cannot be kept in {constants.HF_HUB_CACHE} ({disk}); set HF_HOME to another place.")
    return HubError(f"{what} did not get through ({str(error).partition(chr(10))[0]}); try again.")


def _status(error: Exception) -> int | None:
    """The Hub's answer; the Xet client says it in its message only."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code
    said = re.search(r"HTTP status \w+ error \((\d{3}) ", str(error))
    return int(said[1]) if said else None


def _disk(error: Exception) -> str | None:
    """Why a file cannot be written; likewise."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror
    said = re.search(r"\(os error (\d+)\)", str(error))
    number = int(said[1]) if said else None
    return os.strerror(number) if number in (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS) else None


def _describe(entry: Any) -> HubModel:
    """Read what a listing needs from an entry's tags and card; both are anybody's, so nothing in them is relied on."""
    entry = entry if isinstance(entry, dict) else {}
    name = entry.get("id")
    try:
        check_repo(name if isinstance(name, str) else "")
    except HubError:
        return HubModel("-", readable=False)
    tags = entry.get("tags")
    tags = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    bits = [int(tag.removesuffix("-bit")) for tag in tags if re.fullmatch(r"[0-9]{1,4}-bit", tag)]
    datasets, licenses = (
        [tag.removeprefix(kind) for tag in tags if tag.startswith(kind)] for kind in ("dataset:", "license:")
    )
    commit, downloads = entry.get("sha"), entry.get("downloads")
    try:
        protocol, value = _first_result(entry.get("cardData"))
        readable = True
    except Exception:  # whatever the client's parser stumbles over
        protocol, value, readable = None, None, False
    return HubModel(
        name=name,
        bits=next(iter(bits), None),
        dataset=next(iter(datasets), None),
        protocol=protocol,
        map=value,
        license=next(iter(licenses), None),
        downloads=downloads if type(downloads) is int else None,
        commit=commit if _is_hex(commit, 40) else None,
        readable=readable,
    )


def _first_result(card: Any) -> tuple[str | None, float | None]:
    """Protocol and mAP of a card's first result; None where it has no results.

    Raises:
        Exception: of any kind, where the card does not follow the Hub's form.
    """
    if not card or card.get("model-index") is None:
        return None, None
    _, results = model_index_to_eval_results(card["model-index"])
    protocol, value = results[0].dataset_config, results[0].metric_value
    if not isinstance(protocol, str | None) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError("no protocol and no mAP")
    return protocol, float(value)
