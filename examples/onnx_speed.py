"""An encoder in ONNX Runtime beside JAX: how far apart their embeddings are, and images a second of each.

    python examples/onnx_speed.py --checkpoint runs/demo [--size S]

`--size` takes random weights of a published size in the place of the checkpoint's. Both get random digital
numbers, and the metadata as `embed` and the graph take them; the best of five calls counts. Prints a Markdown table.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np
import onnxruntime

import geomoe
from geomoe import metadata
from geomoe.export import onnx
from geomoe.models import MAE, ModelConfig
from geomoe.models.config import SIZES
from geomoe.pretrained import PretrainedEncoder
from geomoe.training import init_params


def timed(function, *args, **options):
    """What a call gives, and its seconds, the best of five after one that compiles."""
    result, times = function(*args, **options), []
    for _ in range(5):
        start = time.perf_counter()
        function(*args, **options)
        times.append(time.perf_counter() - start)
    return result, min(times)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    args = parser.parse_args(argv)
    encoder = geomoe.load(args.checkpoint)
    if args.size:
        config = ModelConfig.from_dict({"size": args.size})
        encoder = PretrainedEncoder(config, init_params(MAE(config), 0), encoder.statistics, f"random weights, {args.size}")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "encoder.onnx"
        onnx.export_onnx(encoder, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    print(f"{encoder}\n\n| images a call | ONNX Runtime, images/s | JAX, images/s | largest difference |\n|---|---|---|---|")
    rng, size = np.random.default_rng(0), encoder.config.img_size
    for count in args.batches:
        images = rng.uniform(7000, 20000, (count, size, size, encoder.config.in_channels)).astype(np.float32)
        where = dict(lat=rng.uniform(-60, 60, count), lon=rng.uniform(-180, 180, count))
        where["time"] = np.full(count, np.datetime64("2020-05-05T10:00", "s"))
        pairs = metadata.encode(**where)._asdict()
        z_onnx, seconds_onnx = timed(session.run, None, {"images": images, **pairs})
        z_jax, seconds_jax = timed(encoder.embed, images, **where)
        difference = np.abs(z_onnx[0] - z_jax).max()
        print(f"| {count} | {count / seconds_onnx:.0f} | {count / seconds_jax:.0f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
