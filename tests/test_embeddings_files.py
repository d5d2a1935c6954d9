"""Files of embeddings: what is written is what is read."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import PTH, ROOT

from geomoe import embeddings
from geomoe.embeddings.files import write_npz, write_parquet
from geomoe.embeddings.sink import Parts

FACTS = {"classes": ["a", "b", "c"], "pool": "mean"}


def make_parts(path, labelled=True, rows=(3, 2)):
    parts, rng = Parts(path, FACTS, len(rows)), np.random.default_rng(0)
    for index, count in enumerate(rows):
        embedded = np.arange(count) != 1
        vector = rng.normal(size=(count, 4)).astype(np.float32)
        vector[~embedded] = np.nan
        columns = {
            "id": np.array([f"{index}-{'x' * 5 * row}" for row in range(count)]),
            "latitude": np.where(embedded, rng.uniform(-90, 90, count), np.nan),
            "longitude": rng.uniform(-180, 180, count),
            "time": np.where(embedded, np.datetime64("2020-05-18T09:41:02"), np.datetime64("NaT", "s")),
            "valid_fraction": rng.random(count).astype(np.float32),
            "embedded": embedded,
            "vector": vector,
        }
        if labelled:
            columns["labels"] = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.int8)[:count]
        parts.add(index, [columns])
    return parts


@pytest.mark.parametrize("labelled", [True, False])
def test_both_forms_of_file_hold_the_rows_of_all_parts(tmp_path, labelled):
    pytest.importorskip("pyarrow")
    parts = make_parts(tmp_path / "x", labelled)
    write_npz(str(tmp_path / "x.npz"), parts, FACTS)
    write_parquet(str(tmp_path / "x.parquet"), parts, FACTS, footprints=False)
    for suffix in ("npz", "parquet"):
        table = embeddings.read(tmp_path / f"x.{suffix}")
        for name in next(iter(parts)):
            expected = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(table[name], expected, err_msg=f"{name} in {suffix}")
        assert table["facts"] == FACTS
        if labelled:
            vectors, labels = embeddings.read_features(tmp_path / f"x.{suffix}")
            np.testing.assert_array_equal(vectors, table["vector"][table["embedded"]])
            np.testing.assert_array_equal(labels, [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
        else:
            with pytest.raises(ValueError, match="has no labels"):
                embeddings.read_features(tmp_path / f"x.{suffix}")
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_tables_of_fewer_bits_are_read_as_float32(tmp_path, name, dtype):
    parts = make_parts(tmp_path / "x", rows=(3, 200, 1), labelled=False)
    whole = np.concatenate([part["vector"] for part in parts])
    embeddings.Sink(tmp_path / name, dtype=dtype).write(parts, FACTS)
    table = embeddings.read(tmp_path / name)
    assert table["vector"].dtype == np.float32
    np.testing.assert_array_equal(np.isnan(table["vector"]), np.isnan(whole))
    largest = np.nanmax(np.abs(whole), axis=0)
    bound = largest / 254 * 1.001 if dtype == "int8" else largest * 2.0**-11
    assert (np.nan_to_num(np.abs(table["vector"] - whole)) <= bound).all()
    if name.endswith("npz"):
        with np.load(tmp_path / name) as file:
            assert file["vector"].dtype == dtype
    else:
        import pyarrow.parquet as pq

        assert pq.read_schema(tmp_path / name).field("vector").type.value_type == dtype.replace("float16", "halffloat")


def test_the_bounds_of_a_geoparquet_are_those_of_every_part(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    corners = np.random.default_rng(1).uniform(-80, 80, (5, 5, 2))
    parts = [dict(part, footprint=corners[rows]) for part, rows in zip(make_parts(tmp_path / "x"), (slice(3), slice(3, 5)))]
    write_parquet(str(tmp_path / "x.parquet"), parts, FACTS, footprints=True)
    geo = json.loads(pq.read_schema(tmp_path / "x.parquet").metadata[b"geo"])
    points = corners.reshape(-1, 2)
    assert geo["columns"]["geometry"]["bbox"] == pytest.approx([*points.min(axis=0), *points.max(axis=0)])


def test_other_files_are_refused(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    shutil.copy(PTH, tmp_path / "no.npz")
    (tmp_path / "no.parquet").write_text("no")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    (tmp_path / "x.csv").touch()
    for name, message in (
        ("no.npz", "no file of embeddings"),
        ("no.parquet", "no Parquet file"),
        ("other.parquet", "no geomoe metadata"),
        ("x.csv", "read from .parquet, .npz, .tif"),
    ):
        with pytest.raises(ValueError, match=message):
            embeddings.read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nothing.npz"):
        embeddings.read(tmp_path / "nothing.npz")


def test_a_damaged_npz_is_named(tmp_path):
    parts = make_parts(tmp_path / "x")
    write_npz(str(tmp_path / "x.npz"), parts, FACTS)
    whole = (tmp_path / "x.npz").read_bytes()
    at = whole.index(b"vector.npy") + 300  # within the vectors
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    flipped = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:10], b"", b"no", array.getvalue(), flipped):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad.npz is damaged, or no .npz file: \S"):
            embeddings.read(tmp_path / "bad.npz")


def test_reading_needs_neither_the_encoder_nor_tensorflow():
    code = "import sys, geomoe.embeddings as e; e.read_features; assert not {'jax', 'flax', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
