"""The wheel in an empty environment: the core without TensorFlow; the extras `train` and `report`, each with its example."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import PTH, ROOT, SHARED
from geotiffs import pixels, write_scene, write_tif

USE = """
import importlib.util, json, sys, time
start = time.perf_counter()
import numpy as np
import geomoe
encoder = geomoe.load(sys.argv[1])
z = encoder.embed(np.full((2, 8, 8, 7), 9000, np.uint16))
cold = time.perf_counter() - start
from geomoe import embeddings, probing
folder = embeddings.embed_folder(encoder, embeddings.Sink("p.parquet"), sys.argv[2])
scene = embeddings.embed_scene(encoder, embeddings.Sink("s.tif"), sys.argv[3])
x = np.random.default_rng(0).standard_normal((60, 4)); y = np.arange(60) % 2; x[:, 0] += 6 * y
rows = (x[:40], y[:40]), (x[40:], y[40:])
scores = [probe(*rows, task="multiclass").metrics["accuracy"] for probe in (probing.linear_probe, probing.knn_probe)]
absent = [name for name in ("tensorflow", "tensorflow_datasets", "matplotlib", "pystac") if importlib.util.find_spec(name)]
print(json.dumps(dict(cold=cold, folder=folder, scene=scene, scores=scores, present=absent, where=geomoe.__file__)))
"""


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options)


CONFIG = """
from geomoe.training import default_config

def get_config():
    config = default_config()
    config.model.size = "tiny"
    config.data.update(name="landsat_folder/few", data_dir="data", val_split="train", statistics="computed")
    config.train.update(batch_size=8, num_steps=2)
    config.log.images = 1
    return config
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT))
    (path,) = folder.glob("geomoe-*.whl")
    return path


class Environment:
    """An empty environment, into which the wheel is installed with an extra, with the versions of requirements.txt."""

    def __init__(self, folder, wheel):
        self.folder, self.wheel = folder, wheel
        self.variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        run(sys.executable, "-m", "venv", str(folder / "env"))

    def run(self, program, *arguments, check=True):
        command = [str(self.folder / "env" / "bin" / program), *arguments]
        return subprocess.run(command, check=check, capture_output=True, text=True, cwd=self.folder, env=self.variables)

    def install(self, extra=""):
        self.run("python", "-m", "pip", "install", "-q", f"{self.wheel}{extra}", "-c", str(ROOT / "requirements.txt"))
        assert "No broken requirements" in self.run("python", "-m", "pip", "check").stdout


@pytest.mark.long
def test_the_wheel_in_an_empty_environment(tmp_path, wheel):
    environment = Environment(tmp_path, wheel)
    environment.install()
    for i in range(3):
        write_tif(tmp_path / "patches" / f"{i}.tif", pixels(seed=i))
    scene = write_scene(tmp_path / "scene", "LC08_L2SP_193026_20210613_20210622_02_T1", pixels(), prefix="SR_B")
    done = environment.run("python", "-W", "ignore", "-c", USE, str(PTH), str(tmp_path / "patches"), str(scene))
    facts = json.loads(done.stdout.splitlines()[-1])
    print(facts)
    assert facts["present"] == [] and facts["where"].startswith(str(tmp_path / "env"))
    assert facts["folder"] == {"patches": 3, "embedded": 3, "skipped": 0} and facts["scene"]["embedded"] > 0
    assert min(facts["scores"]) == 1.0
    real = SHARED / "landsat_level1_scene"
    environment.run("geomoe", "embed", "--scene", str(real if real.exists() else scene), "--output", "by_default.tif")
    item = json.loads((tmp_path / "by_default.tif.stac.json").read_text())
    assert item["properties"]["geomoe:encoder"].startswith("geomoe-s")
    assert "8,788 of the encoder" in environment.run("geomoe", "info", str(PTH)).stdout
    for arguments, extra in (
        (["prepare", "--dataset", "synthetic_landsat"], "train"),
        (["report", str(tmp_path)], "train|report"),
    ):
        missing = environment.run("geomoe", *arguments, check=False)
        assert missing.returncode == 1 and re.search(rf"pip install 'geomoe\[({extra})\]'", missing.stderr), missing.stderr
        assert "Traceback" not in missing.stderr


@pytest.mark.long
def test_the_extras_train_and_report(tmp_path, wheel):
    environment = Environment(tmp_path, wheel)
    environment.install("[train]")
    for i in range(24):
        write_tif(tmp_path / "patches" / f"{i}.tif", pixels(seed=i))
    (tmp_path / "config.py").write_text(CONFIG)
    environment.run("geomoe", "prepare", "--dataset", "landsat_folder/few", "--source", "patches", "--data_dir", "data")
    done = environment.run("geomoe", "train", "--config", "config.py", "--workdir", "run")
    assert "done: step 2" in done.stdout
    missing = environment.run("geomoe", "report", "run", check=False)
    assert missing.returncode == 1 and "pip install 'geomoe[report]'" in missing.stderr
    environment.install("[report]")
    done = environment.run("geomoe", "report", "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "report: " in done.stdout and page.count("<img") + page.count("<svg") >= 4 and "Without images" not in page
