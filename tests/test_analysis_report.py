"""The report: every part is there, and shows what it says."""

import dataclasses
import html.parser
import re
import shutil
import subprocess

import matplotlib.axes
import numpy as np
import pytest
from conftest import PTH, with_scale

from geomoe import data
from geomoe.analysis import ablation_effects, contribution_norms, metadata_probe
from geomoe.analysis.report import figures, sections
from geomoe.cli import report
from geomoe.data.composites import FALSE_COLOUR, TRUE_COLOUR, composite
from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import MAE
from geomoe.models.reconstruction import reconstruct
from geomoe.pretrained import load
from geomoe.probing.results import Scores
from geomoe.probing.tables import Row, save_tables
from geomoe.training import read_run

STATISTICS = Statistics((9000.0,) * 7, (2000.0,) * 7, "drawn here")


@pytest.fixture(scope="module")
def report_page(run_dir, synthetic_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.main([str(run_dir), "--output", str(path), "--data_dir", str(synthetic_dir), "--max_images", "24"])
    return path


def test_the_report_holds_every_part_and_refers_to_nothing_outside(report_page):
    text = report_page.read_text()
    for part in ("config", "curves", "reconstructions", "routing", "metadata", "probes", "projection"):
        assert f'id="{part}"' in text, part
    assert not re.search(r'(?:src|href)="(?!#|data:)', text) and "url(" not in text and "@import" not in text
    assert "<script" not in text

    class Images(html.parser.HTMLParser):
        alts = []

        def handle_starttag(self, tag, attributes):
            if tag == "img":
                self.alts.append(dict(attributes).get("alt"))

    Images().feed(text)
    assert len(Images.alts) >= 9 and all(Images.alts)


def test_a_report_without_the_dataset_says_so(run_dir, tmp_path, capsys):
    report.main([str(run_dir), "--output", str(tmp_path / "r.html"), "--data_dir", str(tmp_path)])
    text = (tmp_path / "r.html").read_text()
    assert str(tmp_path) in text and 'id="curves"' in text
    with pytest.raises(FileNotFoundError, match="nowhere"):
        report.main([str(tmp_path / "nowhere")])


def test_the_images_are_those_that_the_run_held_out(run_dir, synthetic_dir, tmp_path, monkeypatch):
    """Of the dataset of `data.val_name`, z-scored by its own statistics, not of the main one."""
    other, seen = "synthetic_landsat/small_dominant", []
    shutil.copytree(run_dir, tmp_path / "run")
    run = read_run(run_dir)
    run["config"]["data"].update(val_name=other, val_split="val[:10]")
    monkeypatch.setattr("geomoe.analysis.report.read_run", lambda folder: run)
    for part in ("reconstructions", "routing", "sensitivity", "projection"):
        monkeypatch.setattr(sections, part, lambda encoder, images: seen.append(images) or "")
    report.main([str(tmp_path / "run"), "--data_dir", str(synthetic_dir)])
    statistics = data.compute_statistics(other, "val[:10]", synthetic_dir)
    size = dict(img_size=seen[0].batch["image"].shape[1], resize_mode="centre_crop")
    loaded = data.load(other, "val[:10]", data_dir=synthetic_dir, statistics=statistics, **size)
    expected = next(loaded.as_numpy_iterator())["image"]
    order = lambda images: sorted(image.tobytes() for image in images)
    assert len(seen) == 4 and order(seen[0].batch["image"]) == order(expected)
    assert seen[0].statistics.mean == statistics.mean and len(seen[0].classes) > 0


@pytest.fixture(scope="module")
def held_out():
    rng = np.random.default_rng(0)
    scale = rng.permutation(np.linspace(0.1, 2.0, 20))[:, None, None, None]
    batch = {"image": (rng.standard_normal((20, 8, 8, 7)) * scale).astype(np.float32)}
    batch |= {name: np.zeros((20, 2), np.float32) for name in FIELDS}
    batch["valid"] = np.ones((20, 8, 8), bool)
    batch["labels"] = np.eye(4, dtype=int)[np.arange(20) % 4]
    return sections.HeldOut.of(batch, STATISTICS, "multiclass", list("abcd"))


@pytest.fixture
def drawn(monkeypatch):
    """Every image that is drawn."""
    images = []
    real = matplotlib.axes.Axes.imshow

    def imshow(self, image, **options):
        images.append(np.asarray(image))
        return real(self, image, **options)

    monkeypatch.setattr(matplotlib.axes.Axes, "imshow", imshow)
    return images


def test_images_are_drawn_from_smooth_to_textured(held_out):
    std = held_out.batch["image"].std(axis=(1, 2)).mean(axis=-1)
    assert (np.diff(std[: sections.SHOWN]) > 0).all() and len(std) == 20
    assert std[0] < np.quantile(std, 0.2) and std[sections.SHOWN - 1] > np.quantile(std, 0.8)
    assert len(np.unique(std)) == 20  # none is lost or twice there


def test_a_reconstruction_is_drawn_beside_its_original(encoder, held_out, drawn):
    sections.reconstructions(encoder, held_out)
    result = reconstruct(MAE(encoder.config), encoder.params, held_out.first(4))
    assert len(drawn) == 2 * 4 * 4 and not np.allclose(result.original, result.reconstruction, atol=0.1)
    for panels, bands in ((drawn[:16], TRUE_COLOUR), (drawn[16:], FALSE_COLOUR)):
        original, decoded = (composite(z, STATISTICS, bands) for z in (result.original, result.reconstruction))
        seen = np.where(result.mask[..., None] > 0, 0.5, original)
        for i in range(4):
            for panel, expected in zip(panels[4 * i : 4 * i + 4], (original, seen, decoded, result.error)):
                np.testing.assert_allclose(panel, expected[i], atol=1e-5)


def test_images_of_one_class_leave_out_probes_alone(encoder, held_out):
    labels = {"labels": np.eye(4, dtype=int)[np.zeros(20, int)]}
    text = sections.sensitivity(encoder, dataclasses.replace(held_out, batch=held_out.batch | labels))
    assert "Without probes, of halves of these images" in text and "single class" in text
    assert "no metadata" in text and "probe fitted again" not in text


def test_a_split_that_is_asked_for_and_is_not_there_is_an_error(run_dir, synthetic_dir, tmp_path):
    with pytest.raises(ValueError, match="no split 'trian'"):
        report.main([str(run_dir), "--output", str(tmp_path / "r.html"), "--data_dir", str(synthetic_dir), "--split", "trian"])
    assert not (tmp_path / "r.html").exists()


def test_how_much_of_their_metadata_embeddings_hold_is_said_of_enough_images(encoder, held_out, monkeypatch):
    assert "R2" not in sections.sensitivity(encoder, held_out)
    monkeypatch.setattr(sections, "_PROBED", 21 / encoder.embed_dim)  # of 20 images
    assert "R2" not in sections.sensitivity(encoder, held_out)
    monkeypatch.setattr(sections, "_PROBED", 20 / encoder.embed_dim)
    read = metadata_probe(encoder, held_out.batch["image"], valid=held_out.batch["valid"])
    assert f"reads them from the embeddings: {read}. An R2" in sections.sensitivity(encoder, held_out)


def test_routing_is_drawn_of_the_images_themselves(encoder, held_out, drawn):
    text = sections.routing(encoder, held_out)
    gates = [np.asarray(g) for g in encoder.apply_tokens(*(held_out.batch[name] for name in ("image", *FIELDS))).gates]
    usage = next(image for image in drawn if image.ndim == 2 and image.dtype.kind == "f")
    for layer, g in enumerate(gates):
        np.testing.assert_allclose(usage[: g.shape[-1], layer], (g > 0).mean(axis=(0, 1)) / 2 * g.shape[-1])
    maps = [image for image in drawn if image.dtype.kind == "i"]
    side = maps[0].shape[0]
    np.testing.assert_array_equal(maps[0], gates[0][0, 5:].argmax(axis=-1).reshape(side, side))
    np.testing.assert_array_equal(maps[2], gates[-1][0, 5:].argmax(axis=-1).reshape(side, side))
    starved = sum((u < 0.25).sum() for u in ((g > 0).mean(axis=(0, 1)) / 2 * g.shape[-1] for g in gates))
    assert f"{starved} of {sum(g.shape[-1] for g in gates)} experts" in text


def test_curves_are_of_every_column_and_of_the_experts(tmp_path, monkeypatch):
    names = ["loss_masked", *(f"loss_{name}" for name in (objective.name for objective in sections.OBJECTIVES))]
    with open(tmp_path / "metrics.csv", "w") as file:
        file.write(",".join(["step", *names, "val_loss_masked", "images_per_second", "input_wait_share"]) + "\n")
        for step in (1, 2):
            file.write(",".join(map(str, [step, *(step + k for k in range(len(names))), 7 * step, 100, 0.25])) + "\n")
    (tmp_path / "expert_usage.csv").write_text("step,block,expert,share\n1,a,0,0.5\n1,a,1,0.5\n2,a,0,1.0\n2,a,1,0.0\n")
    curves, shares = {}, []
    monkeypatch.setattr(figures, "curve", lambda title, lines: curves.setdefault(title, lines) and "")
    monkeypatch.setattr(figures, "expert_shares", lambda values: shares.append(values) or "")
    text = sections.curves(str(tmp_path))
    assert curves.pop("reconstruction of hidden patches") == {
        "training": [(1, 1.0), (2, 2.0)],
        "held out": [(1, 7.0), (2, 14.0)],
    }
    assert list(curves) == [objective.title for objective in sections.OBJECTIVES]
    assert [lines["training"][0][1] for lines in curves.values()] == [1.0 + k for k in range(1, len(names))]
    assert shares == [{"a": {0: [(1, 0.5), (2, 1.0)], 1: [(1, 0.5), (2, 0.0)]}}]
    assert "100 images/s (median); 25.0 %" in text
    assert "no metrics.csv" in sections.curves(str(tmp_path / "none"))


@pytest.mark.parametrize("task, main", [("multiclass", "OA"), ("multilabel", "mAP mic"), ("change", "AP")])
def test_probes_are_headed_by_the_main_metric_of_their_task(tmp_path, monkeypatch, task, main):
    names = ("accuracy", "micro_mAP", "average_precision", "auroc")
    metrics = {name: 0.1 * (k + 1) for k, name in enumerate(names)}
    rows = [
        Row.of("pretrained", "linear", task, [Scores(metrics, {name: (v - 0.05, v + 0.05) for name, v in metrics.items()})]),
        Row.of("pretrained", "ridge", "regression", [Scores({"r2": 0.75, "rmse": 0.1}, {})]),
    ]
    facts = {"dataset": "d", "task": task, "train": 5, "test": 6, "protocol": "none", "config": {"seeds": [0]}}
    save_tables(str(tmp_path / "probes" / "d"), rows, facts)
    bars = {}
    monkeypatch.setattr(figures, "intervals", lambda title, values: bars.setdefault(title, values) and "")
    text = sections.probes(str(tmp_path))
    value = {"OA": 0.1, "mAP mic": 0.2, "AP": 0.3}[main]
    assert list(bars) == [main, "R2"]
    assert bars[main] == [("pretrained, linear", pytest.approx(value), pytest.approx((value - 0.05, value + 0.05)), True)]
    assert bars["R2"][0][1:3] == (0.75, (0.75, 0.75)) and "5 training images, 6 test images" in text
    (tmp_path / "probes" / "old.json").write_text('{"rows": [{}]}')
    assert "old.json holds no table" in sections.probes(str(tmp_path))
    assert "No probes yet" in sections.probes(str(tmp_path / "none"))


def test_folds_at_random_stand_beside_spatial_ones_with_a_warning(tmp_path):
    def save(name, splits, title, values, **changes):
        rows = [
            Row.of(features, "linear", "multiclass", [Scores({"accuracy": value}, {}) for value in each])
            for features, each in values.items()
        ]
        of_data = dict(train_split="train", nodata="masked", drop=[], resize_mode="resize", clip=[], hour="utc", splits=splits)
        config = dict(seeds=[0, 1], pool="mean", linear={}, knn={}, data=of_data | changes)
        facts = dict(dataset="d", task="multiclass", train=5, test=None, protocol="none", encoder="e", splits=title)
        save_tables(str(tmp_path / "probes" / name), rows, {**facts, "config": config})

    save("d", "stratified", "stratified folds", {"pretrained": (0.80, 0.82), "random weights": (0.5, 0.6)})
    assert "how the folds were drawn" not in sections.probes(str(tmp_path))
    save("d_spatial", "spatial", "spatial blocks of 50 km", {"pretrained": (0.6, 0.64), "random weights": (0.5, 0.58)})
    save("d_random", "random", "random folds", {"pretrained": (0.1, 0.2)}, nodata="published")  # of other embeddings
    text = sections.probes(str(tmp_path))
    assert text.count("how the folds were drawn") == 1
    for cells in (
        ("pretrained", "linear", "OA", "0.810 ± 0.014", "0.620 ± 0.028", "-0.190", "yes"),
        ("random weights", "linear", "OA", "0.550 ± 0.071", "0.540 ± 0.057", "-0.010", "no"),
    ):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in text
    assert "Warning: scores with spatial blocks of 50 km differ from those with stratified folds" in text
    assert "linear -0.190 (spread 0.032)" in text and "cross-validated, spatial blocks of 50 km" in text
    save("d_spatial", "spatial", "spatial blocks of 50 km", {"pretrained": (0.79, 0.83), "random weights": (0.1, 0.1)})
    text = sections.probes(str(tmp_path))
    assert "how the folds were drawn" in text and "Warning" not in text  # what differs is a baseline


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


def test_experts_are_drawn_for_the_last_of_the_images(encoder, monkeypatch):
    rng = np.random.default_rng(0)
    scales = np.linspace(0.1, 2, 20)[:, None, None, None]
    batch = {"image": (rng.standard_normal((20, 8, 8, 7)) * scales).astype(np.float32)}
    batch |= {name: np.zeros((20, 2), np.float32) for name in FIELDS}
    batch |= {"valid": np.ones((20, 8, 8), bool), "labels": np.eye(4, dtype=int)[np.arange(20) % 4]}
    images = sections.HeldOut.of(batch, STATISTICS, "multiclass", list("abcd"))
    given = []
    monkeypatch.setattr(figures, "expert_effects", lambda *values: given.extend(values) or "")
    sections.routing(encoder, images)
    last = encoder.config.depth - 1
    np.testing.assert_allclose(
        given[0].reshape(-1, given[0].shape[-1]), contribution_norms(encoder, images.first(4), last)[3, 5:]
    )
    np.testing.assert_allclose(given[1], ablation_effects(encoder, images.first(4), last)[:, 3])


def test_tables_of_two_encoders_are_not_compared(tmp_path):
    for name, splits, encoder in (("a", "random", "one"), ("b", "spatial", "another")):
        rows = [Row.of("pretrained", "linear", "multiclass", [Scores({"accuracy": v}, {}) for v in (0.5, 0.6)])]
        of_data = dict(train_split="train", nodata="masked", drop=[], resize_mode="resize", clip=[], hour="utc", splits=splits)
        config = dict(seeds=[0, 1], pool="mean", linear={}, knn={}, data=of_data)
        facts = dict(dataset="d", task="multiclass", train=5, test=None, protocol="none", encoder=encoder, splits=splits)
        save_tables(str(tmp_path / "probes" / name), rows, {**facts, "config": config})
    assert "how the folds were drawn" not in sections.probes(str(tmp_path))


def test_the_z_score_is_shown_as_digital_numbers():
    """Of the published statistics: 10596.475 and 3130.776; of the logarithm: exp(-1.5 - 0.35), exp(-1.5), exp(-1.5 + 0.35)."""
    encoder = load(PTH)
    assert "<td>SR_B7</td><td>7466</td><td>10596</td><td>13727</td>" in sections.config({"config": {}}, encoder)
    numbers = [f"<td>{(np.exp(value) - 0.1 + 0.2) / 0.0000275:.0f}</td>" for value in (-1.85, -1.5, -1.15)]
    assert f"<td>SR_B7</td>{''.join(numbers)}" in sections.config({"config": {}}, with_scale(encoder, "log"))
