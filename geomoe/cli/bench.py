"""Measures how fast this machine runs geomoe, each measurement in a fresh process.

    python -m geomoe.cli.bench
    python -m geomoe.cli.bench --part train --size S --json bench.json
    python -m geomoe.cli.bench --part train --scaling --plots plots

`train` and `embed` compile twice, without and with the compilation cache, and tell time and peak memory of both. `peak` is the
share of the machine's fastest large float32 matmul, measured in the same process, that the model's own matmuls reach
(geomoe/benchmark/flops.py says how they are counted).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import rich.console
import rich.table

from geomoe.cli.setup import clear_errors, program, start
from geomoe.files import atomic_open

_COLUMNS = {
    "per_s": ("images/s", "{:,.0f}"),
    "spread": ("spread", "{:.0%}"),
    "model_gflops": ("GFLOP/s", "{:.0f}"),
    "peak_share": ("peak", "{:.0%}"),
    "plain_ms": ("plain ms", "{:.2f}"),
    "fast_ms": ("fast ms", "{:.2f}"),
    "forward_ms": ("forward ms", "{:.1f}"),
    "gradient_ms": ("gradient ms", "{:.1f}"),
    "seconds": ("s", "{:.2f}"),
    "compile_s": ("compile s", "{:.1f}"),
    "compile_cached_s": ("cached s", "{:.1f}"),
    "memory_gb": ("memory GB", "{:.2f}"),
    "memory_cached_gb": ("cached GB", "{:.2f}"),
    "gflop": ("GFLOP", "{:.0f}"),
    "model_gflop": ("model GFLOP", "{:.0f}"),
    "gbyte": ("GB", "{:.1f}"),
}
_SIZED = ("train", "program", "embed", "scene")  # parts that measure a model of a size
_SCALING: dict[str, list[tuple[str, tuple[int, ...]]]] = {
    "train": [("batch", (16, 32, 64)), ("devices", (1, 2))],
    "embed": [("batch", (8, 32, 256)), ("img_size", (24, 32, 56))],
}


def _measure(part: str, options: dict[str, Any], cache: str, devices: int = 1) -> list[dict[str, Any]]:
    """One part in a process of its own."""
    environment = {**os.environ, "GEOMOE_CACHE": cache}
    if devices > 1:
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "geomoe.cli.bench", "--child", json.dumps([part, options])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{part} {options} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _rows(part: str, size: str, scaling: bool) -> list[dict[str, Any]]:
    if part not in ("train", "embed"):
        return _measure(part, {"size": size} if part in _SIZED else {}, "")
    with tempfile.TemporaryDirectory() as cache:
        (row,) = _measure(part, {"size": size}, cache)
        (again,) = _measure(part, {"size": size, "repeats": 1}, cache)
    row["compile_cached_s"], row["memory_cached_gb"] = again["compile_s"], again["memory_gb"]
    rows = [row]
    for axis, values in _SCALING[part] if scaling else ():
        for value in values:
            devices = value if axis == "devices" else 1
            options = {"size": size, "repeats": 3, **({} if axis == "devices" else {axis: value})}
            rows += [{**r, "varied": axis} for r in _measure(part, options, "", devices)]
        if axis == "batch":
            rows.append({**row, "varied": axis})
    return rows


def main(argv: list[str] | None = None) -> None:
    parts = ("train", "program", "embed", "kernels", "experts", "input", "hosts", "probe", "scene")
    parser = argparse.ArgumentParser(prog=program("bench"), description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="all", choices=(*parts, "all"))
    parser.add_argument("--size", help=f"of the model of {', '.join(_SIZED)} (default: S)")
    parser.add_argument("--scaling", action="store_true", help="also over batch, image size and simulated devices")
    parser.add_argument("--json", metavar="FILE", help="where to write the rows")
    parser.add_argument("--plots", metavar="DIR", help="where to write PNG figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        start()
        from geomoe.benchmark import PARTS

        part, options = json.loads(args.child)
        print(json.dumps(PARTS[part](**options)))
        return
    for option, used in (("size", _SIZED), ("scaling", tuple(_SCALING))):
        if getattr(args, option) and args.part not in (*used, "all"):
            raise ValueError(f"--{option} is for --part {', '.join(used)}; {args.part} would ignore it")
    console = rich.console.Console(width=None if sys.stdout.isatty() else 140)
    rows: list[dict[str, Any]] = []
    for part in parts if args.part == "all" else (args.part,):
        found = _rows(part, args.size or "S", args.scaling)
        rows += found
        shown = [name for name in _COLUMNS if any(name in row for row in found)]
        what = [n for n in found[0] if n not in _COLUMNS and n not in ("part", "ms", "peak_gflops", "varied")]
        what += [n for row in found for n in ("img_size",) if n in row and n not in what][:1]
        table = rich.table.Table(title=part)
        for name in (*what, *(_COLUMNS[n][0] for n in shown)):
            table.add_column(name.replace("_", " "), justify="right")
        for row in found:
            cells = [str(row.get(name, "")) for name in what]
            table.add_row(*cells, *(_COLUMNS[n][1].format(row[n]) if n in row else "" for n in shown))
        console.print(table)
        if "peak_gflops" in found[0]:
            console.print(f"matmul peak in the same process: {found[0]['peak_gflops']:.0f} GFLOP/s")
    if args.json:
        with atomic_open(args.json) as file:
            json.dump(rows, file, indent=1)
    if args.plots:
        from geomoe.benchmark.plots import save_plots

        for path in save_plots(rows, args.plots):
            console.print(path)


if __name__ == "__main__":
    sys.exit(clear_errors(main))
