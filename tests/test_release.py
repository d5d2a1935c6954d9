"""The weights that come with the package: their golden embeddings, by every way of computing them.

tests/data/golden_release.npz holds 16 synthetic patches with their vectors, and the vectors of 64 patches of BigEarthNet-L,
which are read by path. Tolerances are absolute, on numbers whose largest is some tens: 1e-4, since a compiler may sum in
another order and 15 blocks follow each other. `python tests/test_release.py` writes the file anew, for new weights alone.
"""

import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import DATA, ROOT

import geomoe
from geomoe.data.synthetic import scene
from geomoe.weights import PACKAGED, packaged_path

GOLDEN = DATA / "golden_release.npz"
TOLERANCE = 1e-4
NAMES = tuple(PACKAGED)


def golden(name):
    """Images, their metadata (the fourth's is unknown), and vectors."""
    stored = np.load(GOLDEN)
    metadata = {key: stored[key] for key in ("lat", "lon")} | {"time": stored["time"].astype("datetime64[s]")}
    return stored["images"], metadata, stored[f"{name}/synthetic"]


@pytest.mark.parametrize("name", NAMES)
def test_golden_embeddings(name):
    images, metadata, expected = golden(name)
    began = time.perf_counter()
    encoder = geomoe.load(name)
    assert time.perf_counter() - began < 10  # 1 s on a quiet machine
    assert encoder.num_params < 3_000_000 and encoder.card["licence"] and encoder.source == name
    np.testing.assert_allclose(encoder.embed(images, **metadata), expected, atol=TOLERANCE)
    assert np.abs(encoder.embed(images) - expected).max() > 100 * TOLERANCE  # metadata are read


@pytest.mark.parametrize("name", NAMES)
def test_numpy_reference(name):
    from numpy_reference import Reference

    images, metadata, expected = golden(name)
    reference = Reference(packaged_path(name))
    for i in (0, 3, 8):  # one without metadata, one with pixels without data
        when = None if np.isnat(metadata["time"][i]) else str(metadata["time"][i])
        where = [None if np.isnan(value[i]) else value[i] for value in (metadata["lat"], metadata["lon"])]
        np.testing.assert_allclose(reference.embed(images[i], *where, when), expected[i], atol=TOLERANCE)


def test_the_files_are_small_and_known_by_name():
    assert sum(pathlib.Path(packaged_path(name)).stat().st_size for name in NAMES) < 8e6
    with pytest.raises(FileNotFoundError, match=r"name of published weights \(geomoe-s, geomoe-xxs"):
        geomoe.load("geomoe-m")


@pytest.mark.parametrize("name", NAMES)
def test_patches_of_bigearthnet(name, shared):
    sample = shared / "landsat_sample"
    if not sample.exists():
        pytest.skip("needs ../shared/landsat_sample")
    images, ids = sample_patches(sample)
    stored = np.load(GOLDEN)
    np.testing.assert_array_equal(ids, stored["ids"])
    z = geomoe.load(name).embed(images, resize_mode="centre_crop")
    np.testing.assert_allclose(z, stored[f"{name}/sample"], atol=TOLERANCE)


def sample_patches(sample):
    """The first 64 that hold data, one being all 0."""
    from geomoe.data.geotiff import read_patch

    paths = [path for path in sorted((sample / "images").glob("*.tif")) if path.stem != "S2A_MSIL2A_20170613T101032_67_54"]
    return [read_patch(path).image for path in paths[:64]], [path.stem for path in paths[:64]]


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_exported_encoders_give_the_golden_embeddings(name, tmp_path):
    import onnxruntime

    from geomoe import metadata as features
    from geomoe.cli import convert

    images, metadata, expected = golden(name)
    for ending in ("onnx", "stablehlo"):
        convert.main(["--checkpoint", name, "--output", str(tmp_path / f"encoder.{ending}")])
    encoded = features.encode(**metadata)._asdict()
    inputs = {"images": images.astype(np.float32), **{key: np.asarray(value, np.float32) for key, value in encoded.items()}}
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"), providers=["CPUExecutionProvider"])
    given = {entry.name: inputs[entry.name] for entry in session.get_inputs() if entry.name in inputs}
    np.testing.assert_allclose(session.run(None, given)[0], expected, atol=TOLERANCE)
    np.savez(tmp_path / "in.npz", **inputs)
    code = f"""
import jax, jax.export, numpy as np
function = jax.export.deserialize(bytearray(open({str(tmp_path / "encoder.stablehlo")!r}, "rb").read()))
data = np.load({str(tmp_path / "in.npz")!r})
np.save({str(tmp_path / "out.npy")!r}, function.call(*(data[key] for key in ("images", "week", "hour", "lat", "lon"))))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=TOLERANCE)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_run_directory_and_a_pytorch_module_give_them(name, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -r requirements-long.txt")
    from geomoe.cli import convert
    from geomoe.export.torch_module import TorchEncoder

    images, metadata, expected = golden(name)
    convert.main(["--checkpoint", name, "--output", str(tmp_path / "run")])
    np.testing.assert_allclose(geomoe.load(tmp_path / "run").embed(images, **metadata), expected, atol=TOLERANCE)
    tensor = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
    np.testing.assert_allclose(TorchEncoder(geomoe.load(name))(tensor, **metadata).numpy(), expected, atol=TOLERANCE)


@pytest.mark.long
def test_a_scene_is_embedded_in_one_command(shared, tmp_path):
    folder = shared / "landsat_level1_scene"
    if not folder.exists():
        pytest.skip("needs ../shared/landsat_level1_scene")
    output = tmp_path / "scene.tif"
    command = [sys.executable, "-m", "geomoe.cli.embed", "--scene", str(folder), "--output", str(output)]
    subprocess.run(command, check=True, cwd=ROOT)
    item = json.loads((tmp_path / "scene.tif.stac.json").read_text())
    assert output.stat().st_size > 1e5 and item["type"] == "Feature"


def write_golden():
    scenes = [scene(0, "test", i) for i in range(16)]
    images = np.stack([some.image[2:42, 2:42] for some in scenes]).astype(np.uint16)
    images[8, :9, :13] = 0
    metadata = {"lat": np.array([s.latitude for s in scenes]), "lon": np.array([s.longitude for s in scenes])}
    when = np.array([s.time for s in scenes], "datetime64[s]")
    metadata["lat"][3] = metadata["lon"][3] = np.nan
    when[3] = "NaT"
    sample, ids = sample_patches(ROOT.parent / "shared" / "landsat_sample")
    vectors = {}
    for name in NAMES:
        encoder = geomoe.load(name)
        vectors[f"{name}/synthetic"] = encoder.embed(images, **metadata, time=when)
        vectors[f"{name}/sample"] = encoder.embed(sample, resize_mode="centre_crop")
    np.savez_compressed(GOLDEN, images=images, **metadata, time=when.astype("int64"), ids=ids, **vectors)


if __name__ == "__main__":
    write_golden()
