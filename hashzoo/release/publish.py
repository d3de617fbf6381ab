"""Put a model's folder on the Hugging Face Hub: checked first, then all of it in one commit."""

from __future__ import annotations

import contextlib
import re
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from hashzoo.config import ModelConfig, read_json
from hashzoo.errors import HashzooError, HubError
from hashzoo.files import copy, write_text
from hashzoo.release import catalog
from hashzoo.release.card import merge_own, read_card, render_card
from hashzoo.release.contents import check_contents
from hashzoo.zoo import hub, names
from hashzoo.zoo.folder import WEIGHTS, open_folder
from hashzoo.zoo.location import Files
from hashzoo.zoo.probe import check_probe
from hashzoo.zoo.results import Results

T = TypeVar("T")
PATIENCE = 120.0  # seconds that the Hub may take to accept something, besides the time for its bytes
NEEDED = (*hub.REQUIRED, "README.md", "probe.json", "recipe.toml", "results.json")


@dataclass(frozen=True)
class Plan:
    """What publishing a folder would change.

    Attributes:
        repo: `org/name`.
        folder: the model's.
        copy: of its files, which were checked and are sent, whatever becomes of the folder meanwhile.
        parent: commit that the comparison was made with; None if the repository does not exist.
        states: file -> "new", "changed", "unchanged" or "removed".
        sizes: file -> bytes here.
        card: README.md as it would be on the Hub, with the paragraphs that people wrote there.
        version: tag that the parent has, such as "v2"; None if it has none.
        next_version: tag for a new commit.
    """

    repo: str
    folder: Path
    copy: Path
    parent: str | None
    states: dict[str, str]
    sizes: dict[str, int]
    card: str
    version: str | None
    next_version: str

    @property
    def changed(self) -> list[str]:
        """Files that a commit would touch."""
        return [name for name, state in self.states.items() if state != "unchanged"]


def check_folder(folder: str | Path) -> None:
    """Refuse a folder that is not fit to be published.

    Raises:
        HubError: a file is missing, of an unknown name (weights other than safetensors are), a link, or not what its name
            says; the probe fails, the card does not say what the results say, or the backbone's weights are in a model
            that others do not have.
        ConfigError: config.json or results.json is wrong; results without protocol, tie rule or seed are.
        WeightsError: the weights are not whole.
    """
    with tempfile.TemporaryDirectory() as private:
        _copy_checked(Path(folder), Path(private))


def _copy_checked(folder: Path, private: Path) -> None:
    """Copy a folder's files to an empty one that nobody else writes to, and check the copy."""
    if folder.is_symlink() or not folder.is_dir():
        raise HubError(f"{folder} is no folder, or a link to one; name a model's folder itself.")
    for path in sorted(folder.iterdir()):
        if path.name in hub.FILES:
            try:
                copy(path, private / path.name)
            except OSError as error:
                raise HubError(f"{path} cannot be published ({error.strerror}).") from error
        elif not path.name.startswith("."):
            raise HubError(f"{path} is no file of a model's folder (weights are safetensors only); move it away.")
    try:
        _check(private)
    except HashzooError as error:
        raise type(error)(str(error).replace(str(private), str(folder))) from error


def _check(folder: Path) -> None:
    """As `check_folder`, of files that stay as they are."""
    config = read_json(ModelConfig, folder / "config.json")
    if (
        (source := config.backbone_from)
        and not source.repo
        and not any(
            info.name == source.model and info.folder.parent == names.shipped_folder() for info in names.list_models()
        )
    ):
        raise HubError(
            f"{folder} takes its backbone from {source.model}, which neither comes with hashzoo nor is on the Hub; train it with "
            "init = 'local-dir:...', which stores the backbone too."
        )
    for name in NEEDED:
        if not (folder / name).exists():
            way_out = f"`hashzoo eval local-dir:{folder} --update` completes a trained folder"
            if name == WEIGHTS:
                way_out = f"`hashzoo train {folder}/recipe.toml --out runs/{config.name}` makes it anew"
            raise HubError(f"{folder} has no {name}; {way_out}.")
    for row in read_json(Results, folder / "results.json").rows:
        if row.weights_sha256 != config.weights_sha256:
            raise HubError(
                f"{folder}/results.json measured other weights; run `hashzoo eval local-dir:{folder} --update`."
            )
    problems = check_probe(folder, open_folder(folder))
    if problems:
        raise HubError(f"{folder} fails its probe: {'; '.join(problems)}.")
    check_contents(folder, config)
    card = read_card(folder / "README.md")
    if render_card(folder, card) != card:
        raise HubError(
            f"{folder}/README.md does not say what results.json says; `hashzoo eval local-dir:{folder} --update` writes it anew."
        )


def plan(folder: str | Path, repo: str) -> Plan:
    """Compare a folder with what the Hub has; nothing is changed.

    Raises:
        HubError: see `check_folder`; or people's own words in the two cards differ.
        UnreachableError: the Hub cannot be reached.
    """
    folder = Path(folder)
    hub.check_repo(repo)
    with contextlib.ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hashzoo-")))
        _copy_checked(folder, private)
        made = _compare(folder, private, repo)
        weakref.finalize(made, stack.pop_all().close)
    return made


def _compare(folder: Path, private: Path, repo: str) -> Plan:
    parent, there, tags = _there(repo)
    card = read_card(private / "README.md")
    if folder.resolve() not in {info.folder.resolve() for info in names.list_models()}:
        card = render_card(private, card, f"{hub.PREFIX}{repo}")  # elsewhere it has no other name
    if parent and "README.md" in there:
        hub.download(repo, parent, "README.md", there["README.md"])
        merged = merge_own(card, read_card(hub.snapshot(repo, parent) / "README.md"))
        if merged is None:
            raise HubError(f"{repo}'s card has other words of its own than {folder}/README.md; copy them there first.")
        card = merged
    write_text(private / "README.md", card)
    states, sizes = {}, {}
    for name in hub.FILES:
        path = private / name
        if path.exists():
            same = name in there and hub.file_matches(path, *there[name])
            states[name] = "new" if name not in there else "unchanged" if same else "changed"
            sizes[name] = path.stat().st_size
        elif name in there:
            states[name], sizes[name] = "removed", 0
    numbers = {int(tag[1:]): commit for tag, commit in tags.items() if re.fullmatch(r"v[0-9]{1,6}", tag)}
    version = next((f"v{number}" for number in sorted(numbers, reverse=True) if numbers[number] == parent), None)
    return Plan(repo, folder, private, parent, states, sizes, card, version, f"v{max(numbers, default=0) + 1}")


def push(
    plan: Plan, *, private: bool = False, pr: bool = False, message: str | None = None, whole_zoo: bool = False
) -> str:
    """Carry a plan out: one commit with its files, then a version tag, then the zoo's index.

    A push that was stopped is finished by the next: the commit is there whole or not at all.

    Args:
        plan: from `plan`, a moment ago; a commit that came between is not overwritten.
        private: of a repository that is made now.
        pr: open a pull request in place of a commit on the main branch.
        message: of the commit.
        whole_zoo: it is one of all the models that ship, so that the zoo's index may name the repository's organisation if it
            names none yet; a model of another organisation's repository never enters the index.

    Returns:
        The address of the commit or pull request, or a sentence that nothing had changed.

    Raises:
        HubError: the Hub refuses, or the repository changed since the plan.
    """
    repo = plan.repo
    if plan.parent is None:
        _write(lambda api: api.create_repo(repo, private=private, exist_ok=True), repo)
    commit, address = plan.parent, f"{repo} has these files already, at {(plan.parent or '')[:12]}"
    if plan.changed:
        made = _commit(plan, message or f"Publish {plan.folder.name}", pr)
        if pr:
            return str(made.pr_url)
        commit, address = made.oid, made.commit_url
    if plan.changed or plan.version is None:
        tag = plan.next_version
        _write(lambda api: api.create_tag(repo, tag=tag, revision=commit, exist_ok=True), f"tag {tag} of {repo}")
    assert commit is not None
    try:
        if (plan.folder / "README.md").read_text(encoding="utf-8") != plan.card:
            write_text(plan.folder / "README.md", plan.card)
        catalog.set_published(plan.folder, plan.copy, repo, commit, found=whole_zoo)
    except OSError as error:
        raise HubError(
            f"{repo} is published ({address}), but {error.filename or plan.folder} could not be written here "
            f"({error.strerror}); make it writable and publish again."
        ) from error
    return address


def _commit(plan: Plan, message: str, pr: bool) -> Any:
    """Send a plan's changed files in one commit, or one pull request, on top of the commit that it was made with."""
    parent = plan.parent or _write(lambda api: api.model_info(plan.repo), plan.repo).sha
    operations = [
        CommitOperationDelete(name) if plan.states[name] == "removed" else CommitOperationAdd(name, plan.copy / name)
        for name in plan.changed
    ]
    return _write(
        lambda api: api.create_commit(
            plan.repo, operations, commit_message=message, parent_commit=parent, create_pr=pr
        ),
        plan.repo,
        sum(plan.sizes[name] for name in plan.changed),
    )


def _there(repo: str) -> tuple[str | None, Files, dict[str, str]]:
    """What the Hub has: the main branch's commit, its files, and tag -> commit; None and nothing of a repository to be made."""
    try:
        commit, files, token = hub.list_files(repo, "main")
    except HubError as error:
        missing = isinstance(error.__cause__, RepositoryNotFoundError) and not isinstance(
            error.__cause__, GatedRepoError
        )
        if not missing:
            raise
        return None, {}, {}
    refs, _ = hub.ask(lambda token: HfApi(token=token).list_repo_refs(repo), f"the tags of {repo}", token)
    return commit, files, {tag.name: tag.target_commit for tag in refs.tags}


def _write(call: Callable[[HfApi], T], what: str, size: int = 0) -> T:
    """Make a request as the user; `size` bytes go with it.

    Raises:
        HubError: nobody is logged in, or the Hub refuses.
    """
    token = hub.user_token(to_write=True)
    if not token:
        raise HubError("Publishing needs a token that may write; log in with `hf auth login`, or set HF_TOKEN.")
    hub.warn_of_endpoint()
    return hub.ask(lambda token: call(HfApi(token=token)), what, token, hub.Meter(size), PATIENCE)[0]
