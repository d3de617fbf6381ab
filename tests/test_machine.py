"""What a number rests on: the commit of hashzoo's own checkout, and no other."""

import subprocess

import pytest

from hashzoo import machine


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
    monkeypatch.setattr(machine, "__file__", str(root / "hashzoo" / "machine.py"))
    return root


def git(root, *arguments):
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit(checkout):
    assert machine.commit() == git(checkout, "rev-parse", "HEAD")
    (checkout / "hashzoo" / "new.py").write_text("")  # untracked
    assert machine.commit() == git(checkout, "rev-parse", "HEAD")
    (checkout / "plugins" / "code.py").write_text("2")
    assert machine.commit() == git(checkout, "rev-parse", "HEAD") + "+changes"


def test_the_commit_of_another_project_is_none(checkout, tmp_path, monkeypatch):
    installed = checkout / ".venv" / "site-packages" / "hashzoo"
    installed.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(installed / "machine.py"))
    assert machine.commit() == "unknown"
    (tmp_path / "alone" / "hashzoo").mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "alone" / "hashzoo" / "machine.py"))
    assert machine.commit() == "unknown"
