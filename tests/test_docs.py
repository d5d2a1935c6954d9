"""What the README, CONTRIBUTING, docs/ and examples/ show: it runs, and the names in it exist."""

import csv
import importlib
import re

import jax
import matplotlib.image
import numpy as np
import pytest
import rasterio
import rasterio.warp
from conftest import MICRO, ROOT, full_batch, load_module
from geotiffs import pixels, write_tif

import geomoe

PAGES = [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
SOURCES = [*sorted((ROOT / "geomoe").rglob("*.py")), *sorted((ROOT / "configs").rglob("*.py")), *sorted(ROOT.glob("*.py"))]


def python_of(page):
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))


@pytest.mark.parametrize("page", [p for p in PAGES if python_of(p) and p.parent.name == "docs"], ids=lambda p: p.stem)
def test_the_python_of_a_page_runs(page, run_dir, synthetic_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = python_of(page).replace("runs/demo", str(run_dir)).replace('data_dir="data"', f'data_dir="{synthetic_dir}"')
    exec(compile(code.replace('"synthetic_landsat"', '"synthetic_landsat/small"'), page.name, "exec"), {})


def test_the_python_of_the_readme_runs(capsys):
    rng = np.random.default_rng(0)
    names = dict(
        images=rng.integers(7000, 20000, (1000, 40, 40, 7)).astype(np.uint16),
        lat=rng.uniform(-60, 60, 1000),
        lon=[None] * 1000,
        time=np.full(1000, np.datetime64("2020-05-18")),
        labels=rng.integers(0, 3, 1000),
    )
    exec(python_of(ROOT / "README.md"), names)
    assert names["z"].shape == (1000, 144) and "accuracy" in capsys.readouterr().out


@pytest.fixture(scope="module")
def contributed():
    """The names that the examples of CONTRIBUTING define, each example being at most 30 lines."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(examples) == 4 and all(example.count("\n") <= 30 for example in examples)
    from geomoe.models import pooling

    names = {"__name__": "contributed"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "POOLINGS", dict(pooling.POOLINGS))
        for example in examples:
            exec(compile(example, "CONTRIBUTING.md", "exec"), names)
        yield names


def test_contributed_objective(contributed, monkeypatch):
    from geomoe.models import build_mae
    from geomoe.training import init_params
    from geomoe.training.losses import OBJECTIVES, config, total

    monkeypatch.setattr(config, "OBJECTIVES", (*OBJECTIVES, contributed["OBJECTIVE"]))
    loss = config.LossConfig.from_section({"compact_weight": 0.5})
    model = build_mae(**MICRO)
    batch = {key: value for key, value in full_batch(model, 2).items() if key in loss.batch_keys}
    positions = total.global_positions(2, 1, None)
    values, _ = total.batch_losses(
        model, init_params(model, 0), batch, loss, rngs={"mask": jax.random.key(0)}, positions=positions
    )
    assert values["compact"] > 0
    rest = total.weighted_sum({name: value for name, value in values.items() if name != "compact"}, loss)
    assert float(total.weighted_sum(values, loss)) == pytest.approx(float(rest + 0.5 * values["compact"]))


def test_contributed_dataset(contributed, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = tmp_path / "source" / ("dry" if i % 2 else "wet")
        folder.mkdir(parents=True, exist_ok=True)
        write_tif(folder / f"{i}.tif", rng.integers(8000, 12000, (44, 44, 7)).astype(np.uint16))
    builder = contributed["TwoFolders"](source=tmp_path / "source", data_dir=tmp_path / "data")
    builder.download_and_prepare()
    from geomoe import data

    statistics = data.compute_statistics(builder, "train")
    (batch,) = data.load(builder, "train", statistics=statistics).as_numpy_iterator()
    np.testing.assert_array_equal(batch["labels"].argmax(axis=1), [i.startswith(b"wet/") for i in batch["id"]])


def test_contributed_probe(contributed):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    x = np.eye(3)[labels] * 4 + rng.standard_normal((90, 3))
    found = contributed["centroid_probe"]((x[:60], labels[:60]), (x[60:], labels[60:]), task="multiclass", resamples=0)
    assert found.metrics["accuracy"] > 0.9
    folded = geomoe.probing.cross_validate(x, labels, task="multiclass", probe=contributed["centroid_probe"], resamples=0)
    assert folded.metrics["accuracy"] > 0.9


def test_contributed_pooling(contributed, encoder):
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 7)).astype(np.float32)
    tokens = encoder.embed(images, normalized=True, pool="tokens")
    np.testing.assert_allclose(encoder.embed(images, normalized=True, pool="max"), tokens.max(axis=1), atol=1e-5)
    assert encoder.embed(images, normalized=True, pool=("max", "metadata")).shape == (3, 16 + 8)


def resolves(name):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        except ImportError:
            return True  # a module of an optional package that is absent here
        for part in parts[i:]:
            if not hasattr(found, part):
                return part in getattr(found, "__dataclass_fields__", {}) or part in getattr(found, "__annotations__", {})
            found = getattr(found, part)
        return True
    return False


def test_names_in_docs_docstrings_and_messages_exist():
    for page in [*PAGES, *SOURCES, ROOT / "Makefile"]:
        text = page.read_text()
        for name in set(re.findall(r"\bgeomoe(?:\.[A-Za-z_]\w*)+", text)):
            assert resolves(name), f"{page} names {name}"
        for script in re.findall(r"\b(?:configs|examples|tests|docs|geomoe)/[\w/]+\.(?:py|md)", text):
            assert (ROOT / script).exists() or script.endswith("X.py"), f"{page} names {script}"


def test_links_point_to_what_is_there():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_flags_in_docs_exist():
    """Every --flag of a command of ours that a page shows is one that the command's help lists, or a key of its config."""
    from geomoe.probing import default_probe_config
    from geomoe.training import default_config
    from geomoe.training.config import flatten

    keys = {"train": flatten(default_config().to_dict()), "probe": flatten(default_probe_config().to_dict())}
    known = {"train": {"config", "workdir", "coordinator", "num_processes", "process_id", "distributed"}, "probe": {"config"}}
    for page in [*PAGES, *SOURCES]:
        for script, rest in re.findall(r"python (train|probe)\.py([^`\n]*)", page.read_text()):
            for flag in re.findall(r"--([\w.]+)", rest):
                key = flag.removeprefix("config.")
                assert flag in known[script] or key in keys[script] or flag == "config.a.b", f"{page}: {script}.py --{flag}"
        for command, rest in re.findall(r"python -m geomoe\.cli\.(\w+)([^`\n]*)", page.read_text()):
            source = (ROOT / "geomoe" / "cli" / f"{command}.py").read_text()
            for shared in re.findall(r"from geomoe\.cli\.(\w+) import", source):  # options that commands have in common
                source += (ROOT / "geomoe" / "cli" / f"{shared}.py").read_text()
            for flag in re.findall(r"--([a-z_]+)", rest):
                assert f'"--{flag}"' in source, f"{page}: geomoe.cli.{command} --{flag}"


# The field's words: what is said of a model in other words than these is found by nobody.
WORDS = (
    r"\bpaint(?:s|ed|ing|ings)?\b|\btold\b|\bplaces? and times?\b|place_time|\bturns\b(?! (?:it|off|that))|learned by heart"
    r"|\breadouts?\b|\breliance\b|\bleans? on\b|(?<![-.])\bpictures?\b|\brecommended\b|\bown recipe\b|\bdeviations?\b"
)


@pytest.mark.parametrize("page", [*PAGES, *SOURCES], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_fields_words(page):
    text = re.sub(r"standard\s+deviation", "std", page.read_text())
    if page.name == "config.py":
        text = re.sub(r"RETIRED_KEYS = \{.*?\}", "", text, flags=re.S)
    lines = [line for line in text.splitlines() if re.search(WORDS, line, re.I)]
    assert not lines, lines[:3]


def test_from_a_scene_to_places_like_one(run_dir, tmp_path, capsys):
    scene = write_tif(tmp_path / "scene.tif", np.random.default_rng(0).integers(7500, 12000, (80, 90, 7)).astype(np.uint16))
    with rasterio.open(scene) as file:
        lon, lat = (v[0] for v in rasterio.warp.transform(file.crs, "EPSG:4326", *[[v] for v in file.xy(10, 10)]))
    example = load_module(ROOT / "examples" / "similar_places.py")
    arguments = ["--checkpoint", str(run_dir), "--scene", str(scene), "--like", f"{lat},{lon}", "--work", str(tmp_path / "out")]
    example.main(arguments)
    assert capsys.readouterr().out.count("cosine") == 10
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["hits.geojson", "map.tif"]  # its time is not known


def test_from_patches_to_a_map(run_dir, tmp_path, capsys):
    example = load_module(ROOT / "examples" / "map_a_scene.py")
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


def test_the_token_map_of_a_scene_as_a_picture(run_dir, tmp_path):
    scene = write_tif(tmp_path / "LC08_L2SP_193026_20210613_20210622_02_T1.tif", pixels(size=(60, 80)))
    load_module(ROOT / "examples" / "token_map_picture.py").main(
        ["--checkpoint", str(run_dir), "--scene", str(scene), "--output", str(tmp_path / "map.png")]
    )
    drawn = matplotlib.image.imread(tmp_path / "map.png")
    assert drawn.shape[1] > 2 * 70 and drawn[:, : drawn.shape[1] // 3].std() > 0.05 and drawn[:, -30:].std() > 0.05


def test_what_pixels_without_data_cost(run_dir, synthetic_dir, capsys):
    arguments = ["--checkpoint", str(run_dir), "--dataset", "synthetic_landsat/small", "--data_dir", str(synthetic_dir)]
    load_module(ROOT / "examples" / "missing_pixels.py").main(arguments)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " stripes" in line or "% " in line]
    assert len(rows) == 9
    for row in rows:
        published, masked = float(row[1]), float(row[2])
        assert published < masked <= 1.0
