"""The wheel in an empty environment: loading, embedding, scenes and probes without TensorFlow."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import PTH, ROOT
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


@pytest.mark.long
def test_the_wheel_in_an_empty_environment(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "dist"), str(ROOT))
    (wheel,) = (tmp_path / "dist").glob("geomoe-*.whl")
    run(sys.executable, "-m", "venv", str(tmp_path / "env"))
    python = str(tmp_path / "env" / "bin" / "python")
    run(python, "-m", "pip", "install", "-q", str(wheel), "-c", str(ROOT / "requirements.txt"), env=environment)
    assert "No broken requirements" in run(python, "-m", "pip", "check", env=environment).stdout
    for i in range(3):
        write_tif(tmp_path / "patches" / f"{i}.tif", pixels(seed=i))
    scene = write_scene(tmp_path / "scene", "LC08_L2SP_193026_20210613_20210622_02_T1", pixels(), prefix="SR_B")
    arguments = [str(PTH), str(tmp_path / "patches"), str(scene)]
    done = run(python, "-W", "ignore", "-c", USE, *arguments, cwd=tmp_path, env=environment)
    facts = json.loads(done.stdout.splitlines()[-1])
    print(facts)
    assert facts["present"] == [] and facts["where"].startswith(str(tmp_path / "env"))
    assert facts["folder"] == {"patches": 3, "embedded": 3} and facts["scene"]["embedded"] > 0
    assert min(facts["scores"]) == 1.0
    command = str(tmp_path / "env" / "bin" / "geomoe")
    told = run(command, "info", str(PTH), cwd=tmp_path, env=environment)
    assert "8,788 of the encoder" in told.stdout
    for arguments, extra in (
        (["prepare", "--dataset", "synthetic_landsat"], "train"),
        (["report", str(tmp_path)], "train|report"),
    ):
        missing = subprocess.run([command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert missing.returncode == 1 and re.search(rf"pip install 'geomoe\[({extra})\]'", missing.stderr), missing.stderr
        assert "Traceback" not in missing.stderr
