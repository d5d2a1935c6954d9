"""Parts of an output: whole, in order, of one run alone."""

import numpy as np
import pytest

from geomoe.embeddings.sink import Parts


def test_parts_come_back_in_order_and_without_a_gap(tmp_path):
    parts = Parts(tmp_path / "out.npz", {"pool": "mean", "sizes": (1, 2)})
    assert parts.done == 0
    parts.add(0, [{"a": np.arange(3)}, {"a": np.arange(2)}])
    parts.add(2, [{"a": np.arange(9)}])
    assert parts.done == 1
    parts.add(1, [{"a": np.array([7])}])
    again = Parts(tmp_path / "out.npz", {"pool": "mean", "sizes": [1, 2]})
    assert [part["a"].tolist() for part in again] == [[0, 1, 2, 0, 1], [7], list(range(9))]
    again.remove()
    assert not (tmp_path / "out.npz.parts").exists()


def test_parts_of_another_run_are_refused(tmp_path):
    Parts(tmp_path / "out.npz", {"pool": "mean", "dtype": "float32"})
    with pytest.raises(ValueError, match=r"parts of another run \(pool, stride differ\); remove the folder"):
        Parts(tmp_path / "out.npz", {"pool": "cls", "dtype": "float32", "stride": 4})
