"""What the README, docs/ and examples/ show: it runs."""

import csv
import importlib.util
import re

import numpy as np
import pytest
import rasterio
import rasterio.warp
from conftest import ROOT

import geomoe

PAGES = sorted(ROOT.glob("docs/*.md"))


def python_of(page):
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))


@pytest.mark.parametrize("page", [p for p in PAGES if python_of(p)], ids=lambda p: p.stem)
def test_the_python_of_a_page_runs(page, run_dir, synthetic_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = python_of(page).replace("runs/demo", str(run_dir)).replace('data_dir="data"', f'data_dir="{synthetic_dir}"')
    exec(compile(code.replace('"synthetic_landsat"', '"synthetic_landsat/small"'), page.name, "exec"), {})


def test_the_python_of_the_readme_runs(run_dir, capsys):
    rng = np.random.default_rng(0)
    names = dict(
        images=rng.integers(7000, 20000, (1000, 40, 40, 7)).astype(np.uint16),
        lat=rng.uniform(-60, 60, 1000),
        lon=[None] * 1000,
        time=np.full(1000, np.datetime64("2020-05-18")),
        labels=rng.integers(0, 3, 1000),
    )
    exec(python_of(ROOT / "README.md").replace("runs/demo", str(run_dir)), names)
    assert names["z"].shape == (1000, 16) and "accuracy" in capsys.readouterr().out


def test_links_and_commands_point_to_what_is_there():
    for page in [*PAGES, ROOT / "README.md"]:
        text = page.read_text()
        for target in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        for module in re.findall(r"python -m (geomoe[\w.]*)", text):
            assert importlib.util.find_spec(module), f"{page.name} runs {module}"
        for script in re.findall(r"\b(?:configs|examples|tests)/\w+\.py", text):
            assert (ROOT / script).exists(), f"{page.name} names {script}"


def test_from_patches_to_a_map(run_dir, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("map_a_scene", ROOT / "examples" / "map_a_scene.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    patches, labels, scene = example.make_example(tmp_path / "own", count=40, side=2)
    arguments = ["--checkpoint", str(run_dir), "--work", str(tmp_path / "out"), "--patches", str(patches)]
    example.main([*arguments, "--labels", str(labels), "--scene", str(scene)])
    assert "40 patches" in capsys.readouterr().out
    with rasterio.open(tmp_path / "out" / "map.tif") as file, rasterio.open(scene) as ground:
        cover, tags = file.read(1), file.tags()
        x, y = file.xy(0, 0)
        assert file.crs == ground.crs and ground.xy(19.5, 19.5) == pytest.approx((x, y))
        assert file.transform.a == 240  # a window every 8 pixels of 30 m
    with open(labels) as file:
        classes = sorted({row["label"] for row in csv.DictReader(file)})
    assert [tags[f"class_{i + 1}"] for i in range(len(classes))] == classes
    with rasterio.open(scene) as file:
        corner = np.moveaxis(file.read(window=((0, 40), (0, 40))), 0, 2)
        lon, lat = (v[0] for v in rasterio.warp.transform(file.crs, "EPSG:4326", [x], [y]))
    probe = geomoe.probing.load_probe(tmp_path / "out" / "probe.npz")
    place = dict(lat=[lat], lon=[lon], time=["2020-06-18T10:00:00"])
    assert cover[0, 0] == 1 + probe.predict_images(geomoe.load(run_dir), corner[None], **place)[0]
