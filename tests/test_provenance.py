"""What a number rests on: the commit of hashzoo's own checkout, and no other."""

import subprocess

import pytest

from hashzoo import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with hashzoo in it."""
    root = tmp_path / "checkout"
    for name in ("hashzoo", "plugins"):
        (root / name).mkdir(parents=True)
        (root / name / "code.py").write_text("1")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "Begin")
    monkeypatch.setattr(provenance, "__file__", str(root / "hashzoo" / "provenance.py"))
    return root


def git(root, *arguments):
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit(checkout):
    assert provenance.commit() == git(checkout, "rev-parse", "HEAD")
    (checkout / "hashzoo" / "new.py").write_text("")  # untracked
    assert provenance.commit() == git(checkout, "rev-parse", "HEAD")
    (checkout / "plugins" / "code.py").write_text("2")
    assert provenance.commit() == git(checkout, "rev-parse", "HEAD") + "+changes"


def test_the_commit_of_another_project_is_none(checkout, tmp_path, monkeypatch):
    installed = checkout / ".venv" / "site-packages" / "hashzoo"
    installed.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(installed / "provenance.py"))
    assert provenance.commit() == "unknown"
    (tmp_path / "alone" / "hashzoo").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "alone" / "hashzoo" / "provenance.py"))
    assert provenance.commit() == "unknown"
