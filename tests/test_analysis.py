"""Sensitivity on place and time, projections, the report."""

import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest

import geomoe
from geomoe import analysis
from geomoe.cli import report


@pytest.fixture(scope="module")
def report_page(run_dir, synthetic_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.main([str(run_dir), "--output", str(path), "--data_dir", str(synthetic_dir), "--max_images", "24"])
    return path


def test_reliance_is_seen_where_it_is_and_not_where_it_is_not():
    """An embedding that is the latitude and one that is the image; two classes by latitude."""

    class Leaning:
        def __init__(self, on_place):
            self.on_place = on_place

        def embed_batch(self, images, pairs, pool, size):
            seen = images.mean(axis=(1, 2))
            return np.concatenate([seen, 100 * pairs[2]], axis=1) if self.on_place else seen

    rng = np.random.default_rng(0)
    images = rng.standard_normal((200, 4, 4, 2)).astype(np.float32)
    lat = rng.uniform(-60, 60, 200)
    pairs = geomoe.metadata.encode(lat, rng.uniform(-180, 180, 200), np.full(200, np.datetime64("2020-05-05", "s")))._asdict()
    labels = (lat > 0).astype(int)
    rows = {row.change: row for row in analysis.metadata_sensitivity(Leaning(True), images, pairs, labels, "multiclass")}
    assert rows["as they are"].cosine == pytest.approx(1) and rows["as they are"].score > 0.95
    assert rows["no time"].score == rows["as they are"].score and rows["no time"].cosine == pytest.approx(1)
    assert rows["no place"].refitted < 0.7 and rows["places shuffled"].score < 0.7
    assert abs(rows["places shuffled"].cosine) < 0.3
    for row in analysis.metadata_sensitivity(Leaning(False), images, pairs):
        assert row.cosine == pytest.approx(1) and row.score is None and row.refitted is None


def test_projections_keep_groups_apart():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 10)) + 20 * np.repeat(np.eye(10)[:2], 30, axis=0)
    for method in ("pca", "tsne"):
        flat = analysis.project(features, method)
        a, b = flat[:30], flat[30:]
        assert flat.shape == (60, 2)
        apart, wide = np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)), max(a.std(axis=0).max(), b.std(axis=0).max())
        assert apart > 2 * wide, method
    with pytest.raises(ValueError, match="method = 'umap'"):
        analysis.project(features, "umap")
    with pytest.raises(ValueError, match="at least 3 rows"):
        analysis.project(features[:2])


def test_the_report_holds_every_part_and_refers_to_nothing_outside(report_page):
    text = report_page.read_text()
    for part in ("config", "curves", "reconstructions", "routing", "metadata", "probes", "projection"):
        assert f'id="{part}"' in text, part
    assert not re.search(r'(?:src|href)="(?!#|data:)', text) and "url(" not in text and "@import" not in text
    assert "<script" not in text

    class Pictures(html.parser.HTMLParser):
        alts = []

        def handle_starttag(self, tag, attributes):
            if tag == "img":
                self.alts.append(dict(attributes).get("alt"))

    Pictures().feed(text)
    assert len(Pictures.alts) >= 6 and all(Pictures.alts)


def test_a_report_without_the_dataset_says_so(run_dir, tmp_path, capsys):
    report.main([str(run_dir), "--output", str(tmp_path / "r.html"), "--data_dir", str(tmp_path)])
    text = (tmp_path / "r.html").read_text()
    assert str(tmp_path) in text and 'id="curves"' in text
    with pytest.raises(FileNotFoundError, match="nowhere"):
        report.main([str(tmp_path / "nowhere")])


@pytest.mark.long
def test_the_report_on_a_phone_and_on_paper(report_page, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium, Debian's package")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    measure = (
        "<script>addEventListener('load',()=>{const d=document.documentElement;"
        "document.title=`width ${d.scrollWidth} of ${d.clientWidth}; broken "
        "${[...document.images].filter(i=>!i.naturalWidth).length}; beyond "
        "${[...document.images].filter(i=>!i.closest('.wide')&&i.getBoundingClientRect().right>d.clientWidth+1).length}`})</script>"
    )
    page = tmp_path / "measured.html"
    page.write_text(report_page.read_text() + measure)
    frame = tmp_path / "phone.html"  # headless windows are never narrower than 500 pixels; a frame is
    frame.write_text(
        "<iframe src=measured.html width=390 height=844 "
        'onload="setTimeout(()=>{document.title=this.contentDocument.title},500)"></iframe>'
    )
    command = [chromium, *options, "--allow-file-access-from-files", "--virtual-time-budget=10000"]
    dom = subprocess.run([*command, "--dump-dom", f"file://{frame}"], capture_output=True, text=True, timeout=120).stdout
    found = re.search(r"width (\d+) of (\d+); broken (\d+); beyond (\d+)", dom)
    assert found, dom[:500]
    width, client, broken, beyond = map(int, found.groups())
    assert width <= client + 1 <= 392 and broken == 0 and beyond == 0
    pdf = tmp_path / "report.pdf"
    subprocess.run([chromium, *options, f"--print-to-pdf={pdf}", f"file://{report_page}"], capture_output=True, timeout=120)
    assert pdf.read_bytes()[:4] == b"%PDF" and pdf.stat().st_size > 30_000
