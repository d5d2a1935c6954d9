"""Weights by name and address, from a server on localhost: right, wrong, broken off, unreachable, cached."""

import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
import shutil
import socketserver
import sys
import threading
import types

import numpy as np
import pytest
from conftest import PTH
from web import serve

import geomoe
from geomoe.weights import PACKAGED, download, fetch, packaged_path


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


@pytest.fixture
def answers():
    """A server on localhost that answers a path with bytes as they are, header and all; what can be called is called."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            path = self.rfile.readline().split()[1].decode()
            while self.rfile.readline().strip():
                pass
            for part in parts[path]:
                part() if callable(part) else self.wfile.write(part)

    parts = {}
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", parts
        server.shutdown()


def whole(data, *headers):
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(data)}", *headers, "", ""]).encode() + data


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


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
    assert not files(cache)
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
    assert not files(cache)
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


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nPK", r"IncompleteRead\("),
        (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nPK", "its Content-Length 'abc' is no size"),
        (b"hello there\r\n\r\n", "BadStatusLine.'hello there"),
        (b"", "RemoteDisconnected"),
    ],
)
def test_an_answer_against_the_protocol_names_the_address(cache, answers, answer, message):
    address, parts = answers
    parts["/a.pth"] = [answer]
    with pytest.raises(OSError, match=rf"^{address}/a\.pth cannot be fetched: {message}"):
        fetch(f"{address}/a.pth")
    assert not files(cache)


def test_an_address_that_is_no_ascii_is_named(cache):
    with pytest.raises(OSError, match="^https://localhost/ä.pth cannot be fetched: "):
        fetch("https://localhost/ä.pth")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a"])
@pytest.mark.parametrize("page", [b"<html>log in</html>", b'{"error": "not found"}', b"", PTH.read_bytes()[:50_000]])
def test_what_is_no_weights_is_not_kept(cache, answers, name, page):
    address, parts = answers
    parts[f"/{name}"] = [whole(page, "Content-Type: text/html; charset=utf-8")]
    with pytest.raises(ValueError, match=rf"^{address}/{name} gives no .* but {len(page):,} bytes of text/html"):
        fetch(f"{address}/{name}")
    assert not files(cache)


def test_redirects_keep_to_https(cache, answers):
    address, parts = answers
    parts["/weights"] = [whole(PTH.read_bytes())]
    for target in (f"{address}/weights", "/weights"):
        parts["/moved"] = [f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()]
        assert pathlib.Path(fetch(f"{address}/moved")).read_bytes() == PTH.read_bytes()
        shutil.rmtree(cache)
    plain = address.replace("127.0.0.1", "127.0.0.2")
    for target in (f"{plain}/weights", "ftp://localhost/weights"):
        parts["/moved"] = [f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()]
        with pytest.raises(ValueError, match=f"^{address}/moved redirects to {target}: weights are fetched by https:// alone"):
            fetch(f"{address}/moved")
    assert not files(cache)


@pytest.mark.parametrize("note", ['{"addr', "{}", "[]", None])
def test_a_file_without_a_whole_note_is_fetched_anew(cache, served, note):
    path = pathlib.Path(fetch(f"{served.address}/tiny.pth"))
    facts = pathlib.Path(f"{path}.json")
    before = facts.read_text()
    path.write_bytes(PTH.read_bytes()[:1000])
    facts.unlink() if note is None else facts.write_text(note)
    assert fetch(f"{served.address}/tiny.pth") == str(path)
    assert path.read_bytes() == PTH.read_bytes() and facts.read_text() == before and len(files(cache)) == 2


def test_two_that_fetch_one_file_at_once_both_have_it_whole(cache, answers):
    address, parts = answers
    data = whole(PTH.read_bytes())
    parts["/tiny.pth"] = [data[:60_000], threading.Barrier(2, timeout=60).wait, data[60_000:]]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        paths = set(pool.map(fetch, 2 * [f"{address}/tiny.pth"]))
    (path,) = paths
    assert path == fetch(f"{address}/tiny.pth") and pathlib.Path(path).read_bytes() == PTH.read_bytes()
    assert sorted(map(str, files(cache))) == [path, f"{path}.json"]


@pytest.mark.parametrize(
    "path", ["download?file=a.safetensors", "a.safetensors/", "a.SAFETENSORS", "content", "..", "a.pth", ""]
)
def test_the_format_of_an_address_is_that_of_its_content(cache, answers, path):
    address, parts = answers
    parts[f"/{path}"] = [whole(pathlib.Path(packaged_path("geomoe-xxs")).read_bytes())]
    assert geomoe.load(f"{address}/{path}").fingerprint == geomoe.load("geomoe-xxs").fingerprint


def test_the_pth_of_an_address_that_does_not_say_so(cache, answers):
    address, parts = answers
    parts["/files/1/content"] = [whole(PTH.read_bytes())]
    assert geomoe.load(f"{address.upper()}/files/1/content").fingerprint == geomoe.load(PTH).fingerprint


@pytest.mark.parametrize("name", [*PACKAGED, "tiny"])
def test_a_folder_of_a_name_is_taken_where_it_is_a_run(cache, served, tmp_path, monkeypatch, name):
    monkeypatch.setitem(
        download.PUBLISHED, "tiny", download.Published(f"{served.address}/tiny.pth", git_blob(PTH.read_bytes()), "")
    )
    right = geomoe.load(name)
    monkeypatch.chdir(tmp_path)
    pathlib.Path(name).mkdir()
    assert geomoe.load(name).fingerprint == right.fingerprint
    run = right.random_weights(seed=1) if name == "tiny" else geomoe.load(PTH)
    pathlib.Path(name).rmdir()
    run.save_run(name)
    assert geomoe.load(name).fingerprint == run.fingerprint


def test_addresses_that_are_none(cache):
    for address, message in (
        ("http://example.org/a.pth", "by https:// alone"),
        ("file://localhost/a.pth", "by https:// alone"),
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
    fake_hub(["README.md", "model.PTH"])
    assert fetch("HF://owner/name") == str(PTH)
    fake_hub(["a.pth", "b.safetensors"])
    with pytest.raises(ValueError, match="holds a.pth, b.safetensors; name one"):
        fetch("hf://owner/name")
    sys.modules.pop("huggingface_hub")
