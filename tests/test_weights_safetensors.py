"""An encoder as one file: there and back, smaller, and what is no such file."""

import dataclasses
import json
import shutil
import struct

import numpy as np
import pytest
import safetensors.numpy
from conftest import PTH, with_scale
from hypothesis import given, settings, strategies as st

import geomoe
from geomoe import landsat
from geomoe.weights import packaged_path

IMAGES = np.random.default_rng(0).integers(7000, 20000, (3, 8, 8, 7)).astype(np.uint16)


@pytest.fixture
def encoder():
    statistics = landsat.Statistics((9000.0,) * 7, (2000.0,) * 7, "of its own")
    return dataclasses.replace(geomoe.load(PTH), statistics=statistics, normalised_targets=True, card={"licence": "CC-BY-4.0"})


def test_there_and_back(encoder, tmp_path):
    encoder.save(tmp_path / "e.safetensors")
    again = geomoe.load(tmp_path / "e.safetensors")
    assert again.fingerprint == encoder.fingerprint and again.config == encoder.config
    assert again.statistics == encoder.statistics and again.normalised_targets
    assert again.card == {"licence": "CC-BY-4.0", "source": str(PTH)}
    np.testing.assert_array_equal(again.embed(IMAGES), encoder.embed(IMAGES))
    assert "decoder" not in again.params
    encoder.save(tmp_path / "whole.safetensors", decoder=True)
    whole = geomoe.load(tmp_path / "whole.safetensors")
    np.testing.assert_array_equal(whole.reconstruct(IMAGES).reconstruction, encoder.reconstruct(IMAGES).reconstruction)


def test_statistics_of_the_logarithm_are_of_a_version_that_older_readers_refuse(encoder, tmp_path):
    for name, some in (("linear", encoder), ("log", with_scale(encoder, "log"))):
        some.save(tmp_path / f"{name}.safetensors")
        assert geomoe.load(tmp_path / f"{name}.safetensors").statistics == some.statistics
    versions = []
    for name in ("linear", "log", "packaged"):
        path = packaged_path("geomoe-xxs") if name == "packaged" else tmp_path / f"{name}.safetensors"
        with safetensors.safe_open(path, "numpy") as file:
            versions.append(json.loads(file.metadata()["geomoe"])["version"])
    assert versions == [1, 2, 2]


def test_half_the_size(encoder, tmp_path):
    encoder.save(tmp_path / "one.safetensors")
    encoder.save(tmp_path / "half.safetensors", dtype="float16")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("one", "half")]
    assert abs(sizes[0] - sizes[1] - 2 * encoder.num_params) < 500  # of the header
    a, b = (geomoe.load(tmp_path / f"{name}.safetensors").embed(IMAGES) for name in ("one", "half"))
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.9999


def test_what_cannot_be_written_is_named(encoder, tmp_path):
    encoder.save(tmp_path / "e.safetensors")
    for arguments, message in (
        (dict(path=tmp_path / "e.safetensors"), "new file that ends in .safetensors"),
        (dict(path=tmp_path / "e.pth"), "new file that ends in .safetensors"),
        (dict(path=tmp_path / "f.safetensors", dtype="int8"), "dtype = 'int8'"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.save(**arguments)
    encoder.params["encoder"]["norm"]["scale"] = np.full(16, 1e6, np.float32)
    with pytest.raises(ValueError, match="encoder/norm/scale holds values that float16 cannot"):
        encoder.save(tmp_path / "f.safetensors", dtype="float16")


def rewrite(path, change):
    """Write a file again with its facts or tensors changed."""
    tensors = safetensors.numpy.load_file(path)
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(size))["__metadata__"]
    facts = json.loads(metadata["geomoe"])
    change(tensors, facts)
    safetensors.numpy.save_file(tensors, path, {"geomoe": json.dumps(facts)})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tensors, facts: facts.update(version=99), "of version 99 of the format.*upgrade"),
        (lambda tensors, facts: facts.pop("statistics"), "statistics"),
        (lambda tensors, facts: facts["model"].update(width=24), "width|has the shape"),
        (lambda tensors, facts: tensors.pop("encoder/norm/scale"), "encoder/norm/scale is absent"),
        (lambda tensors, facts: tensors["encoder/norm/scale"].fill(np.nan), "encoder/norm/scale holds NaN"),
        (lambda tensors, facts: tensors.update({"encoder/x": np.zeros(1, np.float32)}), "encoder/x is unknown"),
        (lambda tensors, facts: [tensors.pop(name) for name in list(tensors)], "no encoder"),
    ],
)
def test_a_changed_file_is_refused(encoder, tmp_path, change, message):
    path = tmp_path / "e.safetensors"
    encoder.save(path)
    rewrite(path, change)
    with pytest.raises(ValueError, match=f"e.safetensors is no encoder that can be loaded: .*({message})"):
        geomoe.load(path)


def test_weights_that_were_quantised_are_refused(encoder, tmp_path):
    encoder.save(tmp_path / "e.safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "e.safetensors")
    with safetensors.safe_open(tmp_path / "e.safetensors", "np") as file:
        facts = file.metadata()
    rounded = {name: np.rint(value * 100).astype(np.int8) for name, value in tensors.items()}
    safetensors.numpy.save_file(rounded, tmp_path / "q.safetensors", facts)
    with pytest.raises(ValueError, match="int8 are no floating-point numbers"):
        geomoe.load(tmp_path / "q.safetensors")


def test_files_of_other_makers(tmp_path):
    safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="was not written by geomoe"):
        geomoe.load(tmp_path / "other.safetensors")
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}, "__metadata__": {"geomoe": "{}"}}
    ).encode()
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ValueError, match="declares 1,000,000,000,000 values, more than the 100,000,000"):
        geomoe.load(tmp_path / "huge.safetensors")
    with pytest.raises(TypeError, match="num_heads: a .safetensors file says its sizes itself"):
        geomoe.load(tmp_path / "other.safetensors", num_heads=2)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="x.safetensors is no encoder"):
        geomoe.load(path)


@pytest.mark.parametrize("name", ["a.SAFETENSORS", "a", "a.pth", "a.bin"])
def test_a_file_of_another_ending_is_known_by_its_content(encoder, tmp_path, name):
    encoder.save(tmp_path / "e.safetensors")
    (tmp_path / "e.safetensors").rename(tmp_path / name)
    assert geomoe.load(tmp_path / name).fingerprint == encoder.fingerprint
    with pytest.raises(TypeError, match="a .safetensors file says its sizes itself"):
        geomoe.load(tmp_path / name, num_heads=2)


@pytest.mark.parametrize("name", ["a.PTH", "a", "a.safetensors", "a.ckpt"])
def test_weights_of_pytorch_under_another_ending(encoder, tmp_path, name):
    shutil.copy(PTH, tmp_path / name)
    assert geomoe.load(tmp_path / name).fingerprint == encoder.fingerprint
