"""Models on the Hugging Face Hub: fetched whole and checked to the last byte, and listed.

huggingface_hub moves the bytes and keeps the cache, but checks only lengths. Here a revision becomes a commit once, only
known file names of that commit are asked for, and every file is held against its hash each time a model is resolved.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import huggingface_hub
from huggingface_hub import HfApi, constants, errors, get_token
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import httpx, validate_repo_id  # type: ignore[attr-defined]

from hashzoo.errors import HubError, UnreachableError, WeightsError
from hashzoo.files import write_text

REQUIRED = ("config.json", "model.safetensors")
FILES = (*REQUIRED, "README.md", "codes.parquet", "pr-curve.png", "probe.json", "recipe.toml", "results.json")
MAX_BYTES = 8 << 30  # of all files of a model together
PREFIX = "hf-hub:"
OFFICIAL = "https://huggingface.co"

Files = dict[str, tuple[str, int]]  # name -> (sha256, or git's sha1 where that is all the Hub has; bytes)
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
    """

    name: str
    bits: int | None
    dataset: str | None
    protocol: str | None
    map: float | None
    license: str | None
    downloads: int | None
    commit: str | None


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


def fetch(repo: str, revision: str = "main", pinned: Files | None = None, wanted: tuple[str, ...] = FILES) -> Path:
    """Give the folder of a Hub model, downloading what the cache lacks.

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
        return snapshot(repo, commit)
    token: bool | str = False
    try:
        if pinned is None or commit is None:
            commit, known, token = list_files(repo, revision)
        _check_listing(repo, known or {})
        _record(repo, f"{commit}.json", json.dumps(known))  # first, so that a part is never taken for the whole
        files = _choose(known or {}, wanted)
        for name in _wrong(repo, commit, files):
            token = download(repo, commit, name, files[name], token)
    except UnreachableError as error:
        kept, lacking = _from_cache(repo, revision, pinned, wanted)
        if kept and not lacking:
            return snapshot(repo, kept)
        state = f"whole in the cache ({lacking[0]} is missing or damaged)" if kept else "in the cache"
        raise UnreachableError(
            f"{error} {repo} is not {state}: go online, put its folder under $HASHZOO_PATH, or load 'local-dir:FOLDER'."
        ) from error
    if revision != commit:
        _record(repo, _revision_file(revision), commit)
    return snapshot(repo, commit)


def list_hub(
    *,
    author: str | None = None,
    dataset: str | None = None,
    method: str | None = None,
    bits: int | None = None,
    license: str | None = None,
) -> list[HubModel]:
    """List hashzoo's models on the Hub, most downloaded first.

    Raises:
        HubError: the Hub does not answer.
    """
    tags = ["hashzoo", method, f"{bits}-bit" if bits else None]
    tags += [f"dataset:{dataset}" if dataset else None, f"license:{license}" if license else None]
    wanted = [tag for tag in tags if tag]

    def models(token: bool | str, cards: bool = True) -> list[Any]:
        found = HfApi(token=token).list_models(
            filter=wanted, author=author, sort="downloads", full=True, cardData=cards
        )
        try:
            return list(found)
        except TypeError:
            if not cards:
                raise
            # the client stumbles over a card with a key such as `self`; without cards, tags tell the most
            return models(token, cards=False)

    return [_describe(model) for model in ask(models, "the list of models")[0]]


def ask(call: Callable[[bool | str], T], what: str, token: bool | str = False) -> tuple[T, bool | str]:
    """Make a request without a token, and with the user's own only if the Hub wants one; give the token that served.

    Args:
        call: makes the request with the token it is given; False is none.
        what: is named in errors.
        token: what to begin with.

    Raises:
        HubError: the Hub refuses, does not know it, or fails.
        UnreachableError: there is no way to the Hub.
    """
    if _access.get()[1]:
        raise UnreachableError("The Hub is not asked (local_files_only).")
    check_endpoint()
    try:
        try:
            return call(token), token
        except errors.HfHubHTTPError as error:
            mine = user_token()
            if token or not mine or error.response.status_code not in (401, 403):
                raise
            warn_of_endpoint()
            return call(mine), mine
    except errors.OfflineModeIsEnabled as error:
        raise UnreachableError("The Hub is switched off (HF_HUB_OFFLINE=1).") from error
    except (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        httpx.HTTPError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise _explain(error, what) from error


def check_endpoint() -> None:
    """Refuse to talk in plain http to another machine.

    Raises:
        HubError: `HF_ENDPOINT` is http:// and not loopback, and `HASHZOO_ALLOW_HTTP=1` is not set.
    """
    url = urllib.parse.urlsplit(constants.ENDPOINT)
    loopback = url.hostname in ("localhost", "127.0.0.1", "::1")
    if url.scheme != "https" and not loopback and os.environ.get("HASHZOO_ALLOW_HTTP") != "1":
        raise HubError(
            f"HF_ENDPOINT {constants.ENDPOINT} is not https, so anybody on the way could change what comes; use https, or "
            "set HASHZOO_ALLOW_HTTP=1 in a network you trust."
        )


def warn_of_endpoint() -> None:
    """Warn before the user's token goes to another Hub than the official one."""
    if constants.ENDPOINT.rstrip("/") != OFFICIAL:
        warnings.warn(
            f"Your Hugging Face token goes to {constants.ENDPOINT}, which is not {OFFICIAL}.", UserWarning, stacklevel=2
        )


def list_files(repo: str, revision: str) -> tuple[str, Files, bool | str]:
    """Resolve a revision, and read names, sizes and hashes of its known files: one request.

    Returns:
        The commit, the files, and the token that served.

    Raises:
        HubError: the Hub has no such repository or revision, or answers what is no hash.
    """
    info, token = ask(
        lambda token: HfApi(token=token).model_info(repo, revision=revision, files_metadata=True),
        f"{repo} at {revision}",
    )
    if not _is_hex(info.sha, 40):
        raise HubError(f"{constants.ENDPOINT} answers {info.sha!r:.60} as the commit of {repo}; do not trust it.")
    files: Files = {}
    for sibling in info.siblings or []:
        if sibling.rfilename in FILES:
            digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
            if not (_is_hex(digest, 64) or _is_hex(digest, 40)) or not isinstance(sibling.size, int):
                raise HubError(f"{constants.ENDPOINT} gives no hash or size of {repo}/{sibling.rfilename}.")
            files[sibling.rfilename] = (digest, sibling.size)
    return info.sha, files, token


def _check_listing(repo: str, files: Files) -> None:
    """Refuse what is no model, or too large to be one, before anything is downloaded."""
    for name in REQUIRED:
        if name not in files:
            raise HubError(f"{repo} is no model of hashzoo: it has no {name}.")
    size = sum(size for _, size in files.values())
    if size > MAX_BYTES:
        raise HubError(
            f"{repo} has {size / 1e9:.0f} GB of files, more than the {MAX_BYTES / 1e9:.0f} GB that hashzoo fetches."
        )


def download(repo: str, commit: str, name: str, expected: tuple[str, int], token: bool | str = False) -> bool | str:
    """Download one file and check it; once more if it is wrong. Return the token that served.

    Raises:
        HubError: the Hub refuses, or answers what cannot be trusted.
        WeightsError: twice the file was not the expected one.
    """
    digest, size = expected
    url = huggingface_hub.hf_hub_url(repo, name, revision=commit)
    what = f"{name} of {repo} at {commit[:12]}"
    # the client makes file names of the etag and trusts the length, so both are looked at first
    head, token = ask(lambda token: huggingface_hub.get_hf_file_metadata(url, token=token), what, token)
    xet = head.xet_file_data
    if (
        not (_is_hex(head.etag, 40) or _is_hex(head.etag, 64))
        or head.commit_hash != commit
        or not (xet is None or _is_hex(xet.file_hash, 64))
    ):
        raise HubError(
            f"{constants.ENDPOINT} answers for {what} with an etag or commit that is no hash; do not trust it."
        )
    if head.size is not None and head.size != size:
        raise HubError(
            f"{constants.ENDPOINT} gives {head.size:,} bytes for {what} where {size:,} are listed; do not trust it."
        )
    for force in (_cached(repo, commit, name), True):

        def get(token: bool | str, force: bool = force) -> str:
            return huggingface_hub.hf_hub_download(repo, name, revision=commit, token=token, force_download=force)

        path, token = ask(get, what, token)
        if file_matches(Path(path), digest, size):
            return token
    raise WeightsError(
        f"{what} is not the published one (its hash differs, downloaded twice); nothing was loaded. Try again later, or "
        "tell the model's owner."
    )


def matches(data: bytes, digest: str, size: int) -> bool:
    """Say whether a file's bytes have this size and hash: sha256 (64 digits), or git's sha1 of a blob (40 digits)."""
    if len(data) != size:
        return False
    if len(digest) == 64:
        return hashlib.sha256(data).hexdigest() == digest
    return hashlib.sha1(f"blob {size}\0".encode() + data, usedforsecurity=False).hexdigest() == digest


def file_matches(path: Path, digest: str, size: int) -> bool:
    """Say the same of a file, which may be missing."""
    return path.is_file() and path.stat().st_size == size and matches(path.read_bytes(), digest, size)


def _choose(files: Files, wanted: tuple[str, ...]) -> Files:
    return {name: files[name] for name in wanted if name in files}


def _wrong(repo: str, commit: str, files: Files) -> list[str]:
    """Names of files that the cache lacks or holds damaged."""
    return [name for name, facts in files.items() if not file_matches(snapshot(repo, commit) / name, *facts)]


def _home(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))


def snapshot(repo: str, commit: str) -> Path:
    """Where the cache keeps a commit's files."""
    return _home(repo) / "snapshots" / commit


def _cached(repo: str, commit: str, name: str) -> bool:
    return (snapshot(repo, commit) / name).exists()


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


def _from_cache(
    repo: str, revision: str, pinned: Files | None, wanted: tuple[str, ...]
) -> tuple[str | None, list[str]]:
    """Find a revision in the cache without the Hub: its commit, if any of it is there, and the files it lacks."""
    commit = revision
    if not _is_hex(revision, 40):
        # a cache that was filled by hand has refs/ alone
        places = [_home(repo) / "hashzoo" / _revision_file(revision), _home(repo) / "refs" / revision]
        inside = [place for place in places if _home(repo) in place.parents and ".." not in place.parts]
        kept = [place.read_text(encoding="utf-8").strip() for place in inside if place.is_file()]
        commit = next((text for text in kept if _is_hex(text, 40)), "")
    if not commit or not snapshot(repo, commit).is_dir():
        return None, []
    files = pinned or recorded(repo, commit)
    if files is not None:
        return commit, _wrong(repo, commit, _choose(files, wanted))
    # nothing says what the commit holds; config.json's own hash of the weights is checked on opening
    return commit, [name for name in REQUIRED if name in wanted and not _cached(repo, commit, name)]


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
    if isinstance(error, httpx.HTTPError | ConnectionError | errors.LocalEntryNotFoundError):
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


def _describe(model: Any) -> HubModel:
    """Read what a listing needs from tags and card data; a card is anybody's, so nothing in it is relied on."""
    tags = [tag for tag in model.tags or [] if tag.isprintable()]  # such do a terminal no harm
    bits = [int(tag.removesuffix("-bit")) for tag in tags if re.fullmatch(r"[0-9]{1,4}-bit", tag)]
    datasets, licenses = (
        [tag.removeprefix(kind) for tag in tags if tag.startswith(kind)] for kind in ("dataset:", "license:")
    )
    results = getattr(model.card_data, "eval_results", None)
    first = results[0] if isinstance(results, list) and results else None
    protocol, value = getattr(first, "dataset_config", None), getattr(first, "metric_value", None)
    return HubModel(
        name=model.id,
        bits=next(iter(bits), None),
        dataset=next(iter(datasets), None),
        protocol=protocol if isinstance(protocol, str) and protocol.isprintable() else None,
        map=float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None,
        license=next(iter(licenses), None),
        downloads=model.downloads,
        commit=model.sha,
    )
