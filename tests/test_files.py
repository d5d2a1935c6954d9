"""Files appear whole or not at all."""

import errno
import os
import time

import pytest

from geomoe.files import atomic_open, atomic_path


def test_a_file_appears_at_the_end_and_its_folder_is_made(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_open(path) as file:
        file.write("half")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "half" and [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_open(path, "wb") as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "b"):
        raise RuntimeError  # before anything was written
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\] full: '{tmp_path}/a'"), atomic_open(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(OSError, match="elsewhere"), atomic_open(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "full", "elsewhere")
    assert list(tmp_path.iterdir()) == []


def test_each_of_several_writers_writes_its_own_file(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_open(path) as first:
        first.write("the longer one")
        first.flush()
        with atomic_open(path) as second:
            second.write("short")
        assert path.read_text() == "short"
    assert path.read_text() == "the longer one" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    for name in ("old", "new"):
        with atomic_path(tmp_path / "a") as folder:
            os.mkdir(folder)
            open(os.path.join(folder, name), "w").close()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "new"]


def test_what_a_killed_writer_left_is_removed_when_it_is_old(tmp_path):
    hours = {"a.txt.01234567.partial": 47, "a.txt.89abcdef.partial": 49, "a.txt.copy.partial": 99, "b.txt.89abcdef.partial": 99}
    for name, age in hours.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
        for path in (tmp_path / name / "half", tmp_path / name):
            os.utime(path, 2 * (time.time() - age * 3600,))
    (tmp_path / "a.txt.00000000.partial").mkdir()
    (tmp_path / "a.txt.00000000.partial" / "at work").touch()
    os.utime(tmp_path / "a.txt.00000000.partial", (0, 0))
    hours["a.txt.00000000.partial"] = 0
    with atomic_open(tmp_path / "a.txt"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == hours.keys() - {"a.txt.89abcdef.partial"} | {"a.txt"}
