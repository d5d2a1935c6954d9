"""Files appear whole or not at all."""

import errno

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
