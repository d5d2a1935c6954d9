"""Weights by name and address, from a server on localhost: right, wrong, broken off, unreachable, cached."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest
from conftest import PTH
from web import serve

import geomoe
from geomoe.weights import download, fetch


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMOE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def served(tmp_path):
    (tmp_path / "web").mkdir()
    shutil.copy(PTH, tmp_path / "web" / "tiny.pth")
    with serve(tmp_path / "web") as served:
        yield served


def test_the_published_weights_have_their_address_and_sum():
    entry = download.PUBLISHED["moe_mae_s_bigearthnet"]
    assert entry.address.startswith("https://") and "AlbughdadiM/geo-moe-mae" in entry.address
    assert entry.address.endswith("weights/moe_mae_bigearthnet_ls/pretrained_S_best.pth")
    assert entry.git_blob == "600cdf535fa7fefbf89fbfaeda25bf47285b0a8b"


def test_a_name_is_fetched_verified_and_kept(cache, served, monkeypatch, capsys):
    data = PTH.read_bytes()
    entry = download.Published(f"{served.address}/tiny.pth", git_blob(data), "tiny")
    monkeypatch.setitem(download.PUBLISHED, "tiny", entry)
    first = geomoe.load("tiny")
    images = np.full((2, 8, 8, 7), 9000, np.uint16)
    np.testing.assert_array_equal(first.embed(images), geomoe.load(PTH).embed(images))
    assert first.source == "tiny"
    assert hashlib.sha256(data).hexdigest() in capsys.readouterr().err
    requests = len(served.requests)
    assert geomoe.load("tiny").fingerprint == first.fingerprint and len(served.requests) == requests  # no network needed
    monkeypatch.setitem(download.PUBLISHED, "tiny", dataclasses.replace(entry, git_blob="0" * 40))
    with pytest.raises(ValueError, match="is not tiny: its Git blob is"):
        geomoe.load("tiny")


def test_a_wrong_file_is_not_kept(cache, served, monkeypatch):
    monkeypatch.setitem(download.PUBLISHED, "tiny", download.Published(f"{served.address}/tiny.pth", "0" * 40, "tiny"))
    with pytest.raises(ValueError, match="its Git blob is .*, and should be 0000"):
        fetch("tiny")
    with pytest.raises(ValueError, match="has the SHA-256 .*, and ffff"):
        fetch(f"{served.address}/tiny.pth#sha256={'f' * 64}")
    assert not [path for path in cache.rglob("*") if path.is_file()]
    right = hashlib.sha256(PTH.read_bytes()).hexdigest()
    path = fetch(f"{served.address}/tiny.pth#sha256={right.upper()}")
    assert json.loads(pathlib.Path(f"{path}.json").read_text())["sha256"] == right


def test_a_fetch_that_breaks_off_or_fails_keeps_nothing(cache, served, tmp_path):
    served.failures["/tiny.pth"] = 1
    with pytest.raises(OSError, match="tiny.pth cannot be fetched: .*503|Service Unavailable"):
        fetch(f"{served.address}/tiny.pth")
    served.cut["/tiny.pth"] = 1000
    with pytest.raises(OSError, match="cannot be fetched: (broken off after|IncompleteRead)"):
        fetch(f"{served.address}/tiny.pth")
    assert not [path for path in cache.rglob("*") if path.is_file()]
    with pytest.raises(OSError, match="cannot be fetched: .*refused"):
        fetch("http://127.0.0.1:9/tiny.pth")
    with pytest.raises(OSError, match="404|Not Found"):
        fetch(f"{served.address}/gone.pth")


def test_a_damaged_file_of_the_cache_is_named(cache, served):
    path = fetch(f"{served.address}/tiny.pth")
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"\xff")
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is no longer .*; remove it"):
        fetch(f"{served.address}/tiny.pth")


def test_addresses_that_are_none(cache):
    for address, message in (
        ("http://example.org/a.pth", "by https:// alone"),
        ("https://example.org/a.pth#md5=1", "must be sha256="),
        ("hf://owner", "hf://owner/name"),
    ):
        with pytest.raises((ValueError, ImportError), match=message):
            if address.startswith("hf"):
                pytest.importorskip("huggingface_hub") if "huggingface_hub" in sys.modules else fake_hub(None)
            fetch(address)
    with pytest.raises(FileNotFoundError, match="nothing at geomoe-xxl.*moe_mae_s_bigearthnet"):
        geomoe.load("geomoe-xxl")


def fake_hub(files):
    """What geomoe asks of huggingface_hub, in its place."""
    module = types.ModuleType("huggingface_hub")
    module.list_repo_files = lambda repository: files
    module.hf_hub_download = lambda repository, file: str(PTH)
    sys.modules["huggingface_hub"] = module


def test_the_hub(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install 'geomoe\[hub\]'"):
        fetch("hf://owner/name")
    fake_hub(["README.md", "model.pth"])
    assert fetch("hf://owner/name") == str(PTH) == fetch("hf://owner/name/other/model.pth")
    assert hashlib.sha256(PTH.read_bytes()).hexdigest() in capsys.readouterr().err
    fake_hub(["a.pth", "b.safetensors"])
    with pytest.raises(ValueError, match="holds a.pth, b.safetensors; name one"):
        fetch("hf://owner/name")
    sys.modules.pop("huggingface_hub")
