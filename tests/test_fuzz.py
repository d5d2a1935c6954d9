"""10,000 mutated GeoTIFFs are read or refused: none crashes, hangs, takes more than 1 GB or opens another file."""

import collections
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPT = ROOT / "tests" / "fuzz_geotiffs.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
COUNT = 10_000


def run(folder, first, count, *prefix):
    command = [*prefix, sys.executable, "-W", "ignore", str(SCRIPT), str(folder), str(first), str(count)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=570)


@pytest.mark.long
def test_mutated_geotiffs_are_read_or_refused(tmp_path):
    done = run(tmp_path, 0, COUNT)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"crashed at {lines[-1]}: {done.stderr[-500:]}"
    results = [line for line in lines if "done" in line]
    counts = collections.Counter(line["result"] for line in results)
    print(dict(counts), "slowest", max(line["seconds"] for line in results), "s; peak", results[-1]["peak_mb"], "MB")
    assert len(results) == COUNT and set(counts) == {"read", "refused"}, counts
    assert min(counts.values()) > COUNT / 10  # neither is the rule by itself
    assert max(line["seconds"] for line in results) < 5 and results[-1]["peak_mb"] < 1024


@pytest.mark.long
def test_mutated_geotiffs_open_nothing_else(tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    trace = tmp_path / "trace"
    done = run(tmp_path, 0, 1000, "strace", "-f", "-e", "trace=open,openat,connect", "-o", str(trace))
    assert done.returncode == 0, done.stderr[-500:]
    opened = set(re.findall(r'open(?:at)?\([^"]*"([^"]+)", O_[^)]*\) = \d', trace.read_text()))
    allowed = (sys.prefix, sys.base_prefix, str(ROOT), "/usr/", "/lib", "/etc/", "/proc/", "/sys/", "/dev/")
    others = {
        path for path in opened if path.startswith("/") and not path.startswith((*allowed, str(tmp_path / "mutated.tif")))
    }
    assert others <= {str(tmp_path), str(tmp_path / "original.tif")}, others
    assert not re.search(r"connect\(\d+, \{sa_family=AF_INET", trace.read_text())
