import errno
import hashlib
import os
import stat
import time
from pathlib import Path

import pytest

from hashzoo.files import copy, opened, read_bytes, remove_partials, replacing, sha256, write_text


@pytest.fixture
def umask():
    """Set the umask, and give back the old one afterwards."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_old_file_stays_when_the_body_raises(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as partial:  # noqa: PT012 - the body is what is tested
        partial.write_text("new, but only ha")
        assert path.read_text() == "old"
        assert partial.name.startswith(".")
        assert partial.name.endswith(".partial")
        assert partial.parent == path.parent  # a rename across file systems would not be atomic
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_nothing_appears_when_the_first_write_raises(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt") as partial:  # noqa: PT012
        partial.write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_old_file_stays_when_the_body_writes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_at_once(tmp_path):
    """Threads share a process id, and so do the first processes of two containers."""
    path = tmp_path / "a.txt"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # whose writer ended last
    assert names(tmp_path) == ["a.txt"]


def test_write_text(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("first, and longer", "zweite\nö\r\n", ""):
        write_text(path, text)
        assert path.read_bytes() == text.encode()
    assert names(tmp_path) == ["a.txt"]
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "no" / "a.txt", "text")


def test_text_is_utf_8_in_every_locale(tmp_path, run_python):
    writer = run_python(
        "import sys\nfrom hashzoo.files import write_text\nwrite_text(sys.argv[1], 'zweite\\xf6')",
        tmp_path / "a.txt", LC_ALL="POSIX", PYTHONUTF8=0, PYTHONCOERCECLOCALE=0,
    )  # fmt: skip
    assert writer.returncode == 0, writer.stderr
    assert (tmp_path / "a.txt").read_bytes() == b"zweite\xc3\xb6"


def test_the_bytes_are_on_disk_before_the_name_is(tmp_path, monkeypatch):
    path, synced = tmp_path / "a.txt", []
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size, path.read_text())))
    write_text(path, "new, and whole")
    assert synced == [(len("new, and whole"), "old")]


def test_partials_that_another_process_removes_first(tmp_path, monkeypatch):
    left, gone = tmp_path / ".a.txt.2.partial", tmp_path / ".a.txt.1.partial"
    left.touch()
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [gone, left])
    remove_partials(tmp_path)
    assert names(tmp_path) == []


def test_old_file_survives_a_kill(tmp_path, start_python):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old" * 1000)
    writer = start_python(
        "import sys\n"
        "from hashzoo.files import replacing\n"
        "with replacing(sys.argv[1]) as partial, partial.open('wb', buffering=0) as file:\n"
        "    while True:\n"
        "        file.write(b'new' * 1000)\n"
        "        assert file.tell() < 2**28\n",
        path,
    )
    deadline = time.monotonic() + 60
    while not any(left.stat().st_size > 10_000 for left in tmp_path.glob(".a.bin.*.partial")):
        assert writer.poll() is None, writer.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    writer.kill()
    assert writer.wait() == -9
    assert path.read_bytes() == b"old" * 1000
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["a.bin"]
    write_text(path, "the next writer is not disturbed")
    assert path.read_text() == "the next writer is not disturbed"


def test_old_file_survives_a_full_disk(tmp_path, run_python):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    writer = run_python(
        "import resource, sys\n"
        "from hashzoo.files import write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    write_text(sys.argv[1], 'new' * 10_000)\n"
        "except OSError as error:\n"
        "    sys.exit(error.errno)\n",
        path,
    )
    assert writer.returncode == errno.EFBIG, writer.stderr
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_a_new_file_has_the_umasks_permissions(tmp_path, umask, mask):
    umask(mask)
    with replacing(tmp_path / "a.bin") as partial:
        partial.touch(0o600)  # as safetensors writes
    write_text(tmp_path / "b.txt", "text")
    assert mode(tmp_path / "a.bin") == mode(tmp_path / "b.txt") == 0o666 & ~mask
    assert umask(mask) == mask  # the process's own is untouched


@pytest.mark.parametrize("before", [0o600, 0o640, 0o664, 0o444])
def test_a_replaced_file_keeps_its_permissions(tmp_path, umask, before):
    path = tmp_path / "a.bin"
    path.write_text("old")
    path.chmod(before)
    with replacing(path) as partial:
        partial.write_text("new")
    assert (path.read_text(), oct(mode(path))) == ("new", oct(before))


def test_sha256(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"")
    assert sha256(str(path)) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    large = bytes(range(256)) * 10_000
    path.write_bytes(large)
    assert sha256(path) == hashlib.sha256(large).hexdigest()


# What is read


def test_only_regular_files_are_read(tmp_path):
    """Nothing else is waited for, emptied or followed."""
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "link.txt").symlink_to("a.txt")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.txt")
    assert read_bytes(tmp_path / "a.txt", links=False) == read_bytes(tmp_path / "link.txt") == b"words"
    for name in ("device.txt", "pipe.txt", "."):
        for reader in (read_bytes, sha256, lambda path: copy(path, tmp_path / "copy.txt", links=True)):
            with pytest.raises(OSError, match="It is no regular file"):
                reader(tmp_path / name)
    for reader in (lambda path: read_bytes(path, links=False), lambda path: copy(path, tmp_path / "copy.txt")):
        with pytest.raises(OSError, match="It is a link; put the file itself there"):
            reader(tmp_path / "link.txt")
    assert not (tmp_path / "copy.txt").exists()
    copy(tmp_path / "a.txt", tmp_path / "copy.txt")
    with pytest.raises(FileExistsError):
        copy(tmp_path / "a.txt", tmp_path / "link.txt")


def test_a_link_that_comes_to_a_files_place_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "a.txt").write_text("words")
    before = os.open

    def swapped(path, *arguments, **options):
        (tmp_path / "a.txt").unlink()
        (tmp_path / "a.txt").symlink_to("secret")
        return before(path, *arguments, **options)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(OSError, match="symbolic links"), opened(tmp_path / "a.txt", links=False):
        pass


def test_no_file_is_larger_than_its_kind(tmp_path):
    for name, limit in (("config.json", 1 << 20), ("results.json", 1 << 22), ("else.txt", 1 << 20)):
        (tmp_path / name).write_bytes(bytes(limit))
        assert len(read_bytes(tmp_path / name)) == limit
        (tmp_path / name).write_bytes(bytes(limit + 1))
        with pytest.raises(OSError, match=f"It has more than the {limit:,} bytes"):
            read_bytes(tmp_path / name)
    os.truncate(tmp_path / "config.json", 1 << 33)  # takes no room
    for reader in (sha256, lambda path: copy(path, tmp_path / "copy")):
        with pytest.raises(OSError, match="It has more than"):
            reader(tmp_path / "config.json")


def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_bytes(bytes(2 << 20))
    monkeypatch.setattr("hashzoo.files._check", lambda path, status: None)
    with pytest.raises(OSError, match="It has more than"):
        read_bytes(tmp_path / "config.json")
    with pytest.raises(OSError, match="It has more than"):
        copy(tmp_path / "config.json", tmp_path / "recipe.toml")
