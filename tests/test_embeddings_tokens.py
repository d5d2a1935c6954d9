"""Maps of tokens: every cell in its place, blended without seams, and after an interruption."""

import numpy as np
import pyproj
import pytest
import rasterio
from embedding_tools import ORIGIN, SIZE, make_ground
from geotiffs import write_scene, write_tif

import geomoe
from geomoe import embeddings
from geomoe.data.preprocess import InputSpec
from geomoe.embeddings import tokens

PATCH = 4  # of the tiny encoder
TIME = "2020-05-18"


@pytest.fixture(scope="module")
def ground():
    return make_ground()[:30, :42]


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory, ground):
    return write_tif(tmp_path_factory.mktemp("tokens") / "scene.tif", ground, origin=ORIGIN)


def starts(length, step, cell):
    """Every `step` pixels, and one that ends with the last cell."""
    last = -(-length // cell) * cell - SIZE
    return sorted({*range(0, last, step), last})


def expected(encoder, ground, step, cell, min_valid=0.5):
    """Cell by cell, in plain loops: the weighted mean of the tokens that cover it."""
    rows, columns = (-(-length // cell) for length in ground.shape[:2])
    padded = np.zeros((ground.shape[0] + SIZE, ground.shape[1] + SIZE, 7), np.uint16)
    padded[: ground.shape[0], : ground.shape[1]] = ground
    total, weight = np.zeros((rows, columns, 16)), np.zeros((rows, columns))
    to_wgs84 = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    distance = lambda place, length: min(place, length - place)
    for top in starts(ground.shape[0], step, cell):
        for left in starts(ground.shape[1], step, cell):
            window = padded[top : top + SIZE, left : left + SIZE]
            valid = (window != 0).all(axis=-1)
            if valid.mean() < min_valid:
                continue
            lon, lat = to_wgs84.transform(ORIGIN[0] + 30 * (left + SIZE / 2), ORIGIN[1] - 30 * (top + SIZE / 2))
            tokens = encoder.embed(window[None], [lat], [lon], [np.datetime64(TIME)], pool="tokens")[0, 5:]
            for y in range(0, SIZE, cell):
                for x in range(0, SIZE, cell):
                    i, j = (top + y) // cell, (left + x) // cell
                    if i >= rows or j >= columns or valid[y : y + cell, x : x + cell].mean() < 0.5:
                        continue
                    token = tokens[y // PATCH * (SIZE // PATCH) + x // PATCH]
                    if np.isnan(token).any():
                        continue
                    middle = (y + cell / 2, x + cell / 2)
                    w = np.prod([distance(place, SIZE) for place in middle])
                    if cell == 1:
                        w *= np.prod([distance(place % PATCH, PATCH) for place in middle])
                    total[i, j] += w * token
                    weight[i, j] += w
    with np.errstate(invalid="ignore"):
        return total / weight[..., None]


@pytest.mark.parametrize(("resolution", "step", "cell"), [("token", 4, 4), ("pixel", 1, 1)])
def test_a_map_holds_the_blended_tokens_in_their_place(encoder, scene_file, ground, tmp_path, resolution, step, cell):
    output = tmp_path / "map.tif"
    sink = embeddings.Sink(output, batch_size=16)
    counts = embeddings.embed_scene(encoder, sink, scene_file, resolution=resolution, time=TIME)
    answer = expected(encoder, ground, step, cell)
    with rasterio.open(output) as file:
        values = np.moveaxis(file.read(), 0, 2)
        assert file.res == (30 * cell, 30 * cell) and (file.bounds.left, file.bounds.top) == ORIGIN
        assert file.descriptions[3] == "embedding 3"
    np.testing.assert_allclose(values, answer, atol=2e-5)
    here = ~np.isnan(answer[..., 0])
    assert counts == {"patches": here.size, "embedded": here.sum()} and 0 < here.sum() < here.size
    assert embeddings.read(output)["facts"]["pool"] == "tokens"


def test_a_scene_smaller_than_a_window_and_a_wider_step(encoder, ground, tmp_path):
    small = write_tif(tmp_path / "small.tif", ground[-7:, -6:], origin=ORIGIN)
    wide = write_tif(tmp_path / "wide.tif", ground[:, -20:], origin=ORIGIN)
    for path, image, stride in ((small, ground[-7:, -6:], None), (wide, ground[:, -20:], 8)):
        output = path.with_name(f"map_{path.name}")
        embeddings.embed_scene(encoder, embeddings.Sink(output), path, resolution="token", stride=stride, time=TIME)
        with rasterio.open(output) as file:
            np.testing.assert_allclose(np.moveaxis(file.read(), 0, 2), expected(encoder, image, stride or 4, 4), atol=2e-5)


def field(side, mean, std):
    """(side, side, 7) of smooth random ground, without lines of its own."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    frequency[0, 0] = 1
    fields = [np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) / frequency**1.2) for _ in range(3)]
    fields = np.stack([f / f.std() for f in fields], axis=-1) @ rng.normal(size=(3, 7))
    return np.clip(mean + 0.5 * std * fields, 1, 65000).astype(np.uint16)


def steps_at_borders(path, period):
    """The mean step between cells across window borders over that elsewhere, along rows and along columns."""
    with rasterio.open(path) as file:
        values = file.read()
    out = []
    for axis in (1, 2):
        steps = np.nanmean(np.abs(np.diff(values, axis=axis)), axis=(0, 3 - axis))
        at_border = (np.arange(len(steps)) + 1) % period == 0
        out.append(steps[at_border].mean() / steps[~at_border].mean())
    return out


def check_seams(encoder, tmp_path, scene, **options):
    blended, apart = tmp_path / "blended.tif", tmp_path / "apart.tif"
    embeddings.embed_scene(encoder, embeddings.Sink(blended), scene, resolution="token", **options)
    assert max(steps_at_borders(blended, 5)) < 1.1
    embeddings.embed_scene(encoder, embeddings.Sink(apart), scene, resolution="token", stride=40, **options)
    assert max(steps_at_borders(apart, 10)) > 1.1  # what blending is for


@pytest.fixture(scope="module")
def run_encoder(run_dir):
    return geomoe.load(run_dir)


def test_no_seams_on_smooth_ground(run_encoder, tmp_path):
    statistics = run_encoder.statistics
    scene = write_tif(tmp_path / "scene.tif", field(320, np.array(statistics["mean"]), np.array(statistics["std"])))
    check_seams(run_encoder, tmp_path, scene, time=TIME)


def test_no_seams_on_a_real_scene(run_encoder, shared, tmp_path):
    check_seams(run_encoder, tmp_path, shared / "landsat_level1_scene")


def test_clouds_leave_no_tokens(encoder, ground, tmp_path):
    stem = "LC08_L1TP_191028_20200518_20200820_02_T1"
    image = np.full_like(ground, 9000)
    qa = np.zeros(ground.shape[:2], int)
    qa[:, 20:32] = 1 << 3
    mtl = 'DATE_ACQUIRED = 2020-05-18\nSCENE_CENTER_TIME = "09:41:02.1Z"\nSUN_ELEVATION = 51.5\n'
    folder = write_scene(tmp_path / "scene", stem, image, qa=qa, mtl=mtl, origin=ORIGIN)
    for name, options in (("mask", dict(mask=("cloud",))), ("max_cloud", dict(max_cloud=0.0))):
        output = tmp_path / f"{name}.tif"
        embeddings.embed_scene(encoder, embeddings.Sink(output), folder, resolution="token", **options)
        with rasterio.open(output) as file:
            lacking = np.isnan(file.read(1))
        assert lacking[:, 5:8].all() and not lacking[:, :5].any() and not lacking[:, 8:10].any()


@pytest.mark.parametrize("resolution", ["token", "pixel"])
def test_an_interrupted_map_goes_on(encoder, scene_file, tmp_path, resolution, monkeypatch):
    """With another size of a batch, too, as one takes after memory ran out."""
    monkeypatch.setattr(tokens, "_WINDOWS_OF_PART", 100 if resolution == "pixel" else 20)  # several rows of windows
    whole, cut = tmp_path / "whole.tif", tmp_path / "cut.tif"
    embeddings.embed_scene(encoder, embeddings.Sink(whole, batch_size=2), scene_file, resolution=resolution, time=TIME)
    stopped = []

    def stop(done, total):
        stopped.append(done)
        if done > total / 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sink = embeddings.Sink(cut, batch_size=2, progress=stop)
        embeddings.embed_scene(encoder, sink, scene_file, resolution=resolution, time=TIME)
    assert len(stopped) >= 2 and not cut.exists()
    with pytest.raises(ValueError, match="parts of another run"):
        embeddings.embed_scene(encoder, embeddings.Sink(cut, batch_size=2), scene_file, time=TIME)
    done = []
    sink = embeddings.Sink(cut, batch_size=7, progress=lambda n, total: done.append(n))
    embeddings.embed_scene(encoder, sink, scene_file, resolution=resolution, time=TIME)
    assert done[0] == stopped[-1] and len(done) >= 2
    with rasterio.open(whole) as one, rasterio.open(cut) as two:
        np.testing.assert_allclose(one.read(), two.read(), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{n}.tif{s}" for n in ("cut", "whole") for s in ("", ".stac.json")
    ]


def test_what_a_map_of_tokens_cannot_be(encoder, scene_file, tmp_path):
    for name, pool, options, message in (
        ("x.parquet", None, {}, "gives a raster; take .tif"),
        ("x.tif", "cls", {}, "pool = 'cls' would be ignored"),
        ("x.tif", None, dict(stride=6), "stride = 6: windows of a map of tokens start at patches, of 4 pixels"),
        ("x.tif", None, dict(resolution="pixel", stride=2), "stride = 2: that of a map of pixels is at most 2 and without"),
        ("x.tif", None, dict(resolution="patch"), "resolution = 'patch' is none of window, token, pixel"),
    ):
        with pytest.raises(ValueError, match=message):
            options = {"resolution": "token", **options}
            embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / name, pool), scene_file, time=TIME, **options)
    with pytest.raises(ValueError, match="every token"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "x.tif", "tokens"), scene_file, time=TIME)
    assert not list(tmp_path.iterdir())


def test_a_cell_of_which_half_lies_beyond_the_edge_has_no_vector(encoder, ground, tmp_path):
    """Also where pixels without data are to speak: 21 pixels end a quarter into a patch."""
    path = write_tif(tmp_path / "s.tif", ground[:21, 20:41], origin=ORIGIN)
    options = dict(resolution="token", spec=InputSpec(nodata="published"), time=TIME)
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "m.tif"), path, **options)
    with rasterio.open(tmp_path / "m.tif") as file:
        lacking = np.isnan(file.read(1))
    assert lacking[-1].all() and lacking[:, -1].all() and not lacking[:-1, :-1].any()
