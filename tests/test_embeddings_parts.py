"""Parts of an output: whole, in order, of one run alone."""

import os
import shutil

import jax
import numpy as np
import pytest

from geomoe.embeddings import Sink
from geomoe.embeddings.sink import Parts
from geomoe.training import parallel


def test_parts_come_back_in_order_and_without_a_gap(tmp_path):
    parts = Parts(tmp_path / "out.npz", {"pool": "mean", "sizes": (1, 2)}, 3)
    assert parts.done == 0
    parts.add(0, [{"a": np.arange(3)}, {"a": np.arange(2)}])
    parts.add(2, [{"a": np.arange(9)}])
    assert parts.done == 1
    parts.add(1, [{"a": np.array([7])}])
    again = Parts(tmp_path / "out.npz", {"pool": "mean", "sizes": [1, 2]}, 3)
    assert [part["a"].tolist() for part in again] == [[0, 1, 2, 0, 1], [7], list(range(9))]
    again.remove()
    assert not (tmp_path / "out.npz.parts").exists()


def test_parts_of_another_run_are_refused(tmp_path):
    begun = Parts(tmp_path / "out.npz", {"pool": "mean", "dtype": "float32"}, 2)
    other = Parts(tmp_path / "out.npz", {"pool": "cls", "dtype": "float32"}, 2)  # none has a part yet: nothing is in the way
    assert not (tmp_path / "out.npz.parts").exists()
    begun.add(0, [{"a": np.arange(3)}])
    with pytest.raises(ValueError, match=r"parts of another run \(pool differ\)"):
        other.add(1, [{"a": np.arange(3)}])
    with pytest.raises(ValueError, match=r"parts of another run \(pool, stride differ\); remove the folder"):
        Parts(tmp_path / "out.npz", {"pool": "cls", "dtype": "float32", "stride": 4}, 1)


def test_processes_share_what_is_missing(tmp_path, monkeypatch):
    """Inputs 0 to 9, of which 2 to 3 and 6 are there: 7 for three processes."""
    monkeypatch.setattr(parallel, "wait", lambda name: None)
    parts = Parts(tmp_path / "out.npz", {}, 10)
    for first, count in ((2, 2), (6, 1), (3, 1)):  # the last lies in the first, as of two runs at once
        parts.add(first, [{"embedded": np.ones(count, bool)}], count)
    assert (parts.done, parts.rows, parts.missing()) == (0, 3, [(0, 2), (4, 6), (7, 10)])
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    shares = []
    for process in range(3):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        again = Parts(tmp_path / "out.npz", {}, 10)
        assert again.begun == 3
        shares.append(again.share())
    assert shares == [[(0, 2)], [(4, 6)], [(7, 10)]]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    shares = []
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shares.append(Parts(tmp_path / "out.npz", {}, 10).share())
    assert shares == [[(0, 2), (4, 5)], [(5, 6), (7, 10)]]


def test_an_output_that_lacks_inputs_is_not_written(tmp_path):
    """As where processes write to folders of their own machines."""
    parts = Parts(tmp_path / "out.npz", {}, 4)
    parts.add(0, [{"embedded": np.ones(2, bool), "vector": np.ones((2, 3), np.float32)}], 2)
    with pytest.raises(ValueError, match=r"out.npz.parts lacks the inputs 2 to 3: all processes must write to one folder"):
        Sink(tmp_path / "out.npz").finish(parts, {})
    assert os.listdir(tmp_path) == ["out.npz.parts"]


def test_a_part_that_was_not_written_whole_is_missing(tmp_path, monkeypatch):
    def torn(file, **columns):
        file.write(b"PK")
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", torn)
        with pytest.raises(OSError):
            Parts(tmp_path / "o.npz", {"a": 1}, 2).add(0, [{"embedded": np.ones(1, bool)}])
    assert Parts(tmp_path / "o.npz", {"a": 1}, 2).missing() == [(0, 2)]


def begun(tmp_path):
    """The parts of two inputs, and what goes on with them."""
    go_on = lambda: Parts(tmp_path / "x.npz", {"a": 1}, 3)
    for index in range(2):
        go_on().add(index, [{"embedded": np.array([True])}])
    return tmp_path / "x.npz.parts", go_on


@pytest.mark.parametrize("content", [b'{"a": ', b"[1]", b""])
def test_facts_that_are_damaged_are_named(tmp_path, content):
    folder, go_on = begun(tmp_path)
    (folder / "facts.json").write_bytes(content)
    with pytest.raises(ValueError, match="facts.json is damaged .*; remove the folder to start anew"):
        go_on()


def test_parts_that_do_not_say_whose_they_are_are_no_ones(tmp_path):
    """And what is removed in part is no part of a later run, nor lets an output that is there be overwritten."""
    folder, go_on = begun(tmp_path)
    os.remove(folder / "facts.json")
    with pytest.raises(ValueError, match="holds parts without facts.json, which says whose they are; remove the folder"):
        go_on()
    (tmp_path / "x.npz").touch()
    with pytest.raises(ValueError, match="x.npz is there already"):
        Sink(tmp_path / "x.npz")


def test_the_facts_are_removed_last(tmp_path, monkeypatch):
    folder, go_on = begun(tmp_path)
    removed = []
    monkeypatch.setattr(shutil, "rmtree", lambda path: removed.extend(os.listdir(path)))
    go_on().remove()
    assert removed == ["facts.json"]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:40]), lambda path: path.write_bytes(b"")])
def test_a_damaged_part_is_named_and_computed_again_without_it(tmp_path, damage):
    folder, go_on = begun(tmp_path)
    damage(folder / "000000001-000000002.npz")
    with pytest.raises(ValueError, match="000000001-000000002.npz is damaged .*; remove it, and the same command computes it"):
        list(go_on())
    (folder / "000000001-000000002.npz").unlink()
    assert go_on().missing() == [(1, 3)]


def test_an_output_that_no_folder_takes_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/x\.npz cannot be written: .*file is no folder"):
        Sink(tmp_path / "file" / "x.npz")
    Sink(tmp_path / "not" / "yet" / "x.npz")
