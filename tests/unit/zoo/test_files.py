import errno
import os
import sys
from types import SimpleNamespace

import pytest

import zoo.files
from zoo.errors import Corrupt, Failed
from zoo.files import Journal, atomic_path, read_records, write_bytes


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_bytes(tmp_path / "a", b"old")

    def write_half():
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_one_line_with_the_remedy(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failed, match=r"No space left on device.*run the same command again"):
        write_bytes(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_journal_drops_the_line_that_a_kill_cut_off_at_every_byte(tmp_path):
    records = [{"n": 1}, {"n": 2, "text": "ä"}]
    with Journal(tmp_path / "whole") as journal:
        for record in records:
            journal.append(record)
    data = (tmp_path / "whole").read_bytes()
    first = data.index(b"\n") + 1
    for cut in range(len(data) + 1):
        path = tmp_path / f"cut-{cut}"
        path.write_bytes(data[:cut])
        expected = records[: (cut >= first) + (cut == len(data))]
        assert read_records(path) == expected
        with Journal(path) as journal:
            assert journal.records == expected
            journal.append({"n": 3})
        assert read_records(path) == [*expected, {"n": 3}]


def test_a_full_disk_leaves_the_journal_at_its_last_whole_line(tmp_path, monkeypatch):
    with Journal(tmp_path / "j") as journal:
        journal.append({"n": 1})
        before = (tmp_path / "j").read_bytes()
        with monkeypatch.context() as patch:

            def full(descriptor: int) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(os, "fsync", full)
            with pytest.raises(Failed):
                journal.append({"n": 2})
        assert (tmp_path / "j").read_bytes() == before
        journal.append({"n": 3})
    assert read_records(tmp_path / "j") == [{"n": 1}, {"n": 3}]


def test_keep_truncates_the_journal(tmp_path):
    with Journal(tmp_path / "j") as journal:
        for n in range(5):
            journal.append({"n": n})
        journal.keep(2)
        journal.append({"n": 9})
    assert [record["n"] for record in read_records(tmp_path / "j")] == [0, 1, 9]


def test_a_damaged_line_in_the_middle_is_corrupt(tmp_path):
    (tmp_path / "j").write_bytes(b'{"n":1}\n{"n":\n{"n":3}\n')
    with pytest.raises(Corrupt, match="line 2"):
        read_records(tmp_path / "j")


def test_two_processes_cannot_hold_one_journal(tmp_path):
    with Journal(tmp_path / "j"), pytest.raises(Failed, match="another process"):
        Journal(tmp_path / "j")


def test_a_short_write_on_a_full_disk_leaves_no_trace_even_after_closing(tmp_path, monkeypatch):
    """A real full disk takes a part of the line before it refuses the rest."""
    real, room = os.write, 12

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = data[:room]
        room -= len(part)
        return real(descriptor, part)

    with Journal(tmp_path / "j") as journal:
        journal.append({"n": 1})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(Failed):
                journal.append({"text": "a" * 10_000})
    assert read_records(tmp_path / "j") == [{"n": 1}]
    with Journal(tmp_path / "j") as journal:
        journal.append({"n": 2})
    assert read_records(tmp_path / "j") == [{"n": 1}, {"n": 2}]


def test_a_place_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for name in ("a", "b/c"):
        with pytest.raises(ValueError, match=r"/file is a file; choose another place with --out"):
            write_bytes(tmp_path / "file" / name, b"x")
    with pytest.raises(ValueError, match=r"file/j cannot be made: .*/file is a file"):
        Journal(tmp_path / "file" / "j")
    (tmp_path / "directory").mkdir()
    with pytest.raises(Failed, match=r"cannot write .*directory"):
        write_bytes(tmp_path / "directory", b"x")


class Msvcrt:
    """The part of Windows' module that is used, as its documentation has it: bytes from the file's position on are
    locked for one open file, until it is closed.
    """

    LK_NBLCK = 2

    def __init__(self):
        self.held = {}

    def locking(self, descriptor, mode, count):
        assert mode == self.LK_NBLCK
        file = os.fstat(descriptor)
        place = (file.st_dev, file.st_ino, os.lseek(descriptor, 0, os.SEEK_CUR), count)
        owner = self.held.get(place)
        if owner is not None and owner != descriptor and _is_open(owner):
            raise PermissionError(errno.EACCES, "Permission denied")
        self.held[place] = descriptor


def _is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.fixture
def windows(monkeypatch):
    """As on Windows: no fcntl, directories cannot be opened, and only files that are open to write can be synced."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", module := Msvcrt())
    monkeypatch.setattr(zoo.files, "WINDOWS", True)
    real_open, real_sync, synced = os.open, os.fsync, []

    def opened(path, flags, *mode, **options):
        if os.path.isdir(path):  # noqa: PTH112  # os.open takes any path
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, flags, *mode, **options)

    def fsync(descriptor):
        os.write(descriptor, b"")  # EBADF unless it is open to write
        synced.append(os.fstat(descriptor).st_ino)
        real_sync(descriptor)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", fsync)
    return SimpleNamespace(msvcrt=module, synced=synced)


def test_on_windows_files_are_written_whole_and_synced(windows, tmp_path):
    write_bytes(tmp_path / "deep" / "a", b"content")
    assert (tmp_path / "deep" / "a").read_bytes() == b"content"
    assert windows.synced == [(tmp_path / "deep" / "a").stat().st_ino]


def test_on_windows_a_journal_is_held_by_one_and_read_by_all(windows, tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append({"n": 1})
        with pytest.raises(Failed, match="another process is writing"):
            Journal(path)
        ((_, _, locked, count),) = windows.msvcrt.held
        assert (locked, count) == (zoo.files.JOURNAL_BYTES, 1)  # none of the bytes that others read
        journal.append({"n": 2})
        assert read_records(path) == [{"n": 1}, {"n": 2}]
        journal.keep(1)
    assert path.read_bytes() == b'{"n":1}\n'
    with Journal(path) as journal:
        journal.append({"n": 3})
    assert read_records(path) == [{"n": 1}, {"n": 3}]
