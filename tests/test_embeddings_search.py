"""Search: the exact neighbours, where the query is, and what is written of them."""

import json
import time

import numpy as np
import pytest
from geotiffs import write_tif

from geomoe import embeddings
from geomoe.cli import search
from geomoe.embeddings.files import write_npz


def write(path, vector, lat, lon, embedded=None, time="2020-05-18T10:00:00", facts=None):
    count = len(vector)
    part = {
        "id": np.array([f"row{i}" for i in range(count)]),
        "latitude": np.asarray(lat, float),
        "longitude": np.asarray(lon, float),
        "time": np.full(count, np.datetime64(time, "s")),
        "embedded": np.ones(count, bool) if embedded is None else embedded,
        "vector": vector,
    }
    write_npz(str(path), [part], facts or {})
    return path


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """Some hundred vectors of all lengths along a meridian, 0.1 degrees (11.1 km) apart; row 4 is not embedded."""
    rng = np.random.default_rng(0)
    vector = rng.normal(size=(300, 8)).astype(np.float32) * rng.uniform(0.1, 10, (300, 1)).astype(np.float32)
    embedded = np.arange(300) != 4
    vector[4] = np.nan
    path = tmp_path_factory.mktemp("search") / "x.npz"
    return write(path, vector, np.arange(300) * 0.1, np.full(300, 20.0), embedded), vector


def test_the_neighbours_are_exact(cloud):
    path, vector = cloud
    index = embeddings.SearchIndex(path)
    assert len(index) == 299
    row = index.nearest_row(10.04, 20.0)
    assert index.id[row] == "row100" and index.nearest_row(10.04, 20.0 - 360) == row
    hits = index.like(row, k=12)
    unit = vector.astype(float) / np.linalg.norm(vector.astype(float), axis=1, keepdims=True)
    cosine = unit @ unit[100]
    expected = [i for i in np.argsort(-np.nan_to_num(cosine, nan=-2)) if i not in (100, 4)]
    assert index.id[hits.rows].tolist() == [f"row{i}" for i in expected[:12]]
    np.testing.assert_allclose(hits.cosine, cosine[expected[:12]], atol=1e-6)
    np.testing.assert_allclose(hits.kilometres, [abs(i - 100) * 11.119 for i in expected[:12]], rtol=1e-3)
    far = index.like(row, k=500, beyond_km=1000)
    assert index.id[far.rows].tolist() == [f"row{i}" for i in expected if abs(i - 100) * 11.119 > 1000]


def test_other_dates_of_the_query_are_hits_unless_they_are_too_near(tmp_path):
    """Rows 0 and 1 are one place on two dates, row 2 lies 11.1 km and row 3 22.2 km off."""
    vector = np.array([[1, 0], [1, 0.1], [1, 0.2], [1, 0.3]], np.float32)
    index = embeddings.SearchIndex(write(tmp_path / "x.npz", vector, [0, 0, 0.1, 0.2], [20] * 4))
    assert index.like(0).rows.tolist() == [1, 2, 3]
    np.testing.assert_allclose(index.like(0).kilometres, [0, 11.119, 22.239], atol=0.01)
    assert index.like(0, beyond_km=11).rows.tolist() == [2, 3]
    assert index.like(0, beyond_km=11.2).rows.tolist() == [3]


def test_a_query_across_180_degrees_and_one_that_is_nowhere(tmp_path, cloud):
    vector = np.eye(3, dtype=np.float32)
    index = embeddings.SearchIndex(write(tmp_path / "x.npz", vector, [0, 0, 50], [179.99, -179, 0]))
    assert index.nearest_row(0, -179.99) == 0
    with pytest.raises(ValueError, match="within_km = nan must be 0 or more"):
        index.nearest_row(10, 179, float("nan"))
    with pytest.raises(ValueError, match=r"no embedding at 10, 179: the nearest, row0, is 1117\.\d km away \(within_km = 5\)"):
        index.nearest_row(10, 179)
    with pytest.raises(ValueError, match="latitude 95, longitude 0"):
        index.nearest_row(95, 0)
    with pytest.raises(ValueError, match="k = 0"):
        index.like(0, k=0)
    nothing = write(tmp_path / "none.npz", vector, [np.nan] * 3, [0, 0, 0])
    with pytest.raises(ValueError, match="none.npz holds no embedding with a location"):
        embeddings.SearchIndex(nothing)


def test_the_command_writes_hits_and_a_map(cloud, tmp_path, capsys):
    path, _ = cloud
    arguments = ["--embeddings", str(path), "--like", "10,20", "-k", "3", "--output", str(tmp_path / "hits.geojson")]
    search.main([*arguments, "--picture", str(tmp_path / "hits.png"), "--beyond_km", "50", "--within_km", "1"])
    found = json.loads((tmp_path / "hits.geojson").read_text())
    assert found["type"] == "FeatureCollection" and [f["properties"]["rank"] for f in found["features"]] == [0, 1, 2, 3]
    query, first = found["features"][:2]
    assert query["properties"]["id"] == "row100" and query["geometry"] == {"type": "Point", "coordinates": [20.0, 10.0]}
    assert first["properties"]["kilometres"] > 50 and first["properties"]["time"] == "2020-05-18T10:00:00Z"
    assert (tmp_path / "hits.png").read_bytes()[:4] == b"\x89PNG"
    assert "3 of 299 embeddings, like row100" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--like here: give latitude and longitude"):
        search.main([*arguments[:3], "here", *arguments[4:]])


def test_search_in_a_map_of_tokens(encoder, tmp_path):
    """Two fields of the same kind in a scene of another: from one of them to the other."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(8000, 16000, (2, 7))
    image = np.broadcast_to(kinds[0], (64, 64, 7)).copy()
    image[8:24, 8:24], image[40:56, 36:52] = kinds[1], kinds[1]
    scene = write_tif(tmp_path / "scene.tif", (image + rng.integers(0, 100, image.shape)).astype(np.uint16))
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "map.tif"), scene, resolution="token", time="2020-05-18")
    index = embeddings.SearchIndex(tmp_path / "map.tif")
    assert len(index) == 256
    hits = index.like(int(np.flatnonzero(index.id == "3_3")[0]), k=5, beyond_km=0.8)
    places = np.array([name.split("_") for name in index.id[hits.rows]], int)
    assert ((places[:, 0] >= 10) & (places[:, 0] < 14) & (places[:, 1] >= 9) & (places[:, 1] < 13)).all()


@pytest.mark.long
def test_a_million_vectors_in_a_second(tmp_path):
    rng = np.random.default_rng(0)
    vector = rng.standard_normal((1_000_000, 144), np.float32)
    index = embeddings.SearchIndex(
        write(tmp_path / "x.npz", vector, rng.uniform(-60, 60, 10**6), rng.uniform(-180, 180, 10**6))
    )
    start = time.perf_counter()
    index.like(index.nearest_row(*(float(v[7]) for v in (index.latitude, index.longitude))))
    assert time.perf_counter() - start < 1


def write_catalogue(folder, files, failed=()):
    folder.mkdir()
    lines = ["scene,output,patches,embedded,error"]
    for name, (vector, lat) in files.items():
        write(folder / f"{name}.npz", vector, lat, [20] * len(lat))
        lines.append(f"{name},/elsewhere/{name}.npz,{len(lat)},{len(lat)},")
    lines += [f'{name},,0,0,"no bands, no scene"' for name in failed]
    (folder / "scenes.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_catalogue_is_searched_as_a_whole_wherever_it_stands(tmp_path, capsys):
    """The nearest of row 0 is in the other file; the scene that failed has none."""
    east = np.array([[1, 0], [0, 1]], np.float32), [0, 1]
    west = np.array([[3, 0.3], [1, 1]], np.float32), [2, 3]
    folder = write_catalogue(tmp_path / "many", {"east": east, "west": west}, failed=["broken"])
    index = embeddings.SearchIndex(folder)
    assert len(index) == 4 and index.like(0).rows.tolist() == [2, 3, 1]
    np.testing.assert_allclose(index.like(0).cosine, [10 / np.sqrt(101), np.sqrt(0.5), 0], atol=1e-6)
    both = embeddings.SearchIndex([f"{folder}/../many/west.npz", folder])  # what is named twice counts once
    assert len(both) == 4 and both.latitude.tolist() == [2, 3, 0, 1]
    output = tmp_path / "hits.geojson"
    search.main(["--embeddings", str(folder / "west.npz"), str(folder / "east.npz"), "--like", "0,20", "--output", str(output)])
    assert "3 of 4 embeddings, like row0" in capsys.readouterr().out
    features = json.loads(output.read_text())["features"]
    found = [(each["geometry"]["coordinates"][1], each["properties"]["file"].rpartition("/")[2]) for each in features]
    assert found == [(0.0, "east.npz"), (2.0, "west.npz"), (3.0, "west.npz"), (1.0, "east.npz")]


def test_files_that_cannot_be_compared_are_refused(tmp_path):
    vector = np.eye(2, dtype=np.float32)
    for name, facts in {"a": {"pool": "mean", "encoder_sha256": "1"}, "b": {"pool": "mean", "encoder_sha256": "2"}}.items():
        write(tmp_path / f"{name}.npz", vector, [0, 1], [20, 20], facts=facts)
    write(tmp_path / "c.npz", vector, [0, 1], [20, 20], facts={"pool": "cls", "encoder_sha256": "1"})
    with pytest.raises(ValueError, match=r"a\.npz has encoder_sha256 1, .*b\.npz 2: vectors of one encoder and one pool alone"):
        embeddings.SearchIndex([tmp_path / "a.npz", tmp_path / "b.npz"])
    with pytest.raises(ValueError, match=r"a\.npz has pool mean, .*c\.npz cls"):
        embeddings.SearchIndex([tmp_path / "a.npz", tmp_path / "c.npz"])
    numbers = {"mean": [1.0], "std": [1.0], "source": "europe"}
    for name, record in {
        "d": {"statistics": numbers, "statistics_of": "encoder"},
        "e": {"statistics": {**numbers, "mean": [2.0]}, "statistics_of": "encoder"},
        "f": {"statistics": {**numbers, "mean": [3.0]}, "statistics_of": "images"},
        "g": {"statistics": [numbers, numbers], "statistics_of": "images"},
        "h": {"statistics": {**numbers, "mean": [2.0]}},  # by an older version
        "i": {"statistics": {**numbers, "source": "elsewhere"}, "statistics_of": "encoder"},
    }.items():
        facts = {"pool": "mean", "encoder_sha256": "1", "input": record}
        write(tmp_path / f"{name}.npz", vector, [0, 1], [20, 20], facts=facts)
    for one, other in ("de", "df", "eg"):
        with pytest.raises(
            ValueError, match=r"[de]\.npz by .* and those of .*[efg]\.npz by .* z-scored in two ways; embed both"
        ):
            embeddings.SearchIndex([tmp_path / f"{one}.npz", tmp_path / f"{other}.npz"])
    for one, other in ("dh", "fg", "ad", "af", "gh", "di"):
        assert len(embeddings.SearchIndex([tmp_path / f"{one}.npz", tmp_path / f"{other}.npz"])) == 4
    with pytest.raises(ValueError, match=r"none holds no embeddings: every scene of its scenes\.csv failed"):
        embeddings.SearchIndex(write_catalogue(tmp_path / "none", {}, failed=["x", "y"]))
    with pytest.raises(ValueError, match="no file of embeddings is given"):
        embeddings.SearchIndex([])


def test_a_query_in_the_south(tmp_path, capsys):
    path = write(tmp_path / "x.npz", np.eye(2, dtype=np.float32), [-3.1, -4], [-60.0, -60])
    search.main(["--embeddings", str(path), "--like", "-3.1,-60", "--output", str(tmp_path / "hits.geojson")])
    assert "1 of 2 embeddings, like row0" in capsys.readouterr().out


def test_a_row_or_limit_that_is_none_is_named(tmp_path):
    index = embeddings.SearchIndex(write(tmp_path / "x.npz", np.eye(3, dtype=np.float32), [0, 1, 2], [0, 0, 0]))
    for call, message in (
        (lambda: index.like(-1), "row = -1 is not one of the 3 rows, a whole number from 0 to 2"),
        (lambda: index.like(3), "row = 3 is not one of the 3 rows"),
        (lambda: index.like(0.5), "row = 0.5 is not one of the 3 rows"),
        (lambda: index.file_of(-1), "row = -1 is not one of the 3 rows"),
        (lambda: index.file_of(3), "row = 3 is not one of the 3 rows"),
        (lambda: index.like(0, 3.0), "k = 3.0 must be a whole number, 1 or more"),
        (lambda: index.like(0, beyond_km=float("nan")), "beyond_km = nan must be 0 or more"),
        (lambda: index.like(0, beyond_km=-1.0), "beyond_km = -1.0 must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    hits = index.like(np.int64(2), np.int32(2))
    assert hits.query == 2 and sorted(hits.rows) == [0, 1] and index.file_of(hits.query) == str(tmp_path / "x.npz")
