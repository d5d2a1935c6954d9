"""What is measured. Each function runs in a process of its own and gives a list of rows of plain values."""

import collections
import dataclasses
import json
import os
import pathlib
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from geomoe import landsat
from geomoe.benchmark.flops import encoder_flops, training_flops
from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import ModelConfig, build_mae, kernels
from geomoe.models.experts import mix_experts
from geomoe.models.kernels import ExpertParams
from geomoe.models.router import route
from geomoe.pretrained import PretrainedEncoder
from geomoe.training.config import default_config
from geomoe.training.optimizer import build_optimizer
from geomoe.training.parallel import map_train_step, prefetch, replicate
from geomoe.training.state import TrainState, init_params
from geomoe.training.step import make_train_step

Row = dict[str, Any]


def timed(function: Callable[..., Any], *args: Any, repeats: int = 5) -> list[float]:
    """Seconds of each of `repeats` calls, after one that does not count."""
    jax.block_until_ready(function(*args))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - start)
    return seconds


def matmul_peak(size: int = 2048, repeats: int = 8) -> float:
    """GFLOP/s of one large float32 matmul, the fastest of some: what a program that does nothing else gets."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / min(timed(product, a, repeats=repeats)) / 1e9


def peak_memory() -> float:
    """GB: of the accelerator where it tells, else the most that this process has held."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 1e9


def _rates(count: int, seconds: list[float], flops: int, peak: float) -> Row:
    middle = statistics.median(seconds)
    row: Row = {"per_s": count / middle, "spread": (max(seconds) - min(seconds)) / middle, "ms": 1e3 * middle}
    model_gflops = flops * count / middle / 1e9
    return row | {"model_gflops": model_gflops, "peak_gflops": peak, "peak_share": model_gflops / peak}


def _compiled(part: str, size: str, batch: int, once: Callable[[], Any], repeats: int, flops: int, **facts: Any) -> list[Row]:
    """The row of a program that compiles at its first call."""
    start = time.perf_counter()
    jax.block_until_ready(once())
    first = time.perf_counter() - start
    seconds = timed(once, repeats=repeats)
    row = {"part": part, "size": size, "batch": batch, **facts, **_rates(batch, seconds, flops, matmul_peak())}
    return [{**row, "compile_s": first - statistics.median(seconds), "memory_gb": peak_memory()}]


def _batch(config: ModelConfig, count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {"image": rng.standard_normal((count, config.img_size, config.img_size, config.in_channels), np.float32)}
    return batch | {name: rng.standard_normal((count, 2), np.float32) for name in FIELDS}


def _training(size: str, batch: int, **changes: Any) -> tuple[ModelConfig, Any, tuple[Any, ...]]:
    """The mapped training step of the published recipe, and its arguments."""
    model = build_mae(size, **changes)
    optimizer, _ = build_optimizer(default_config().optimizer, 1000)
    params = init_params(model, 0)
    state = replicate(TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params)))
    data, key = next(prefetch([_batch(model.config, batch)])), replicate(jax.random.key_data(jax.random.key(0)))
    return model.config, map_train_step(make_train_step(model, optimizer)), (state, data, jax.random.wrap_key_data(key))


def _encoder(size: str, **changes: Any) -> PretrainedEncoder:
    model = build_mae(size, **changes)
    return PretrainedEncoder(model.config, init_params(model, 0), Statistics.published("bigearthnet_landsat"), "bench")


def _normal() -> Callable[..., jax.Array]:
    """Draws float32 arrays of a shape, with standard deviation 0.1."""
    rng = np.random.default_rng(0)
    return lambda *shape: jnp.asarray(0.1 * rng.standard_normal(shape), jnp.float32)


def _expert_params(normal: Callable[..., jax.Array], e: int, d: int, f: int) -> ExpertParams:
    return ExpertParams(normal(e, d, f), normal(e, f), normal(d, f), normal(f), normal(f, d), normal(d))


def _median_ms(function: Callable[..., Any], *args: Any, repeats: int) -> float:
    return 1e3 * statistics.median(timed(function, *args, repeats=repeats))


def _write_tif(path: str, image: np.ndarray) -> None:
    """A Landsat image (H, W, 7) as uint16 GeoTIFF."""
    import rasterio
    from rasterio.transform import from_origin

    height, width, count = image.shape
    profile = dict(driver="GTiff", height=height, width=width, count=count, dtype="uint16", crs="EPSG:32632")
    with rasterio.open(path, "w", transform=from_origin(500_000, 5_300_000, 30, 30), **profile) as file:
        file.write(np.moveaxis(image, 2, 0))
        file.descriptions = landsat.BANDS


def train(size: str = "S", batch: int = 128, repeats: int = 5, **changes: Any) -> list[Row]:
    """The whole training step of the published recipe on random numbers, over all devices."""
    config, step, (state, data, key) = _training(size, batch, **changes)

    def once() -> Any:
        nonlocal state
        state, metrics = step(state, data, key)
        return metrics

    flops = training_flops(config)
    return _compiled("train", size, batch, once, repeats, flops, devices=jax.device_count(), **changes)


def program(size: str = "S", batch: int = 128) -> list[Row]:
    """What the compiled training step is made of here, and what it is lowered to for TPU and CUDA, which needs no device."""
    config, step, arguments = _training(size, batch)
    compiled = step.lower(*arguments).compile()
    cost = compiled.cost_analysis()
    kinds = collections.Counter(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][a-z-]*)\(", compiled.as_text(), re.MULTILINE))
    row: Row = {"part": "program", "size": size, "batch": batch, "platform": f"{jax.default_backend()}, compiled"}
    row |= {name: kinds[name] for name in ("gather", "scatter", "transpose", "copy")}
    row |= {"host_calls": kinds["infeed"] + kinds["outfeed"] + compiled.as_text().count("callback")}
    row |= {"gflop": cost["flops"] / 1e9, "model_gflop": training_flops(config) * batch / 1e9}
    rows = [{**row, "gbyte": cost["bytes accessed"] / 1e9}]
    state, data, key = arguments
    images = {name: jax.ShapeDtypeStruct((batch, *value.shape[2:]), value.dtype) for name, value in data.items()}
    plain = make_train_step(build_mae(size), build_optimizer(default_config().optimizer, 1000)[0], axis_name=None)
    for platform in ("tpu", "cuda"):
        text = jax.export.export(jax.jit(plain), platforms=[platform])(state, images, key).mlir_module()
        kinds = collections.Counter(re.findall(r"stablehlo\.([a-z_]+)", text))
        row = {"part": "program", "size": size, "batch": batch, "platform": f"{platform}, lowered"}
        row |= {name: kinds[name] for name in ("gather", "scatter", "transpose")}
        rows.append({**row, "host_calls": text.count("callback"), "dots": kinds["dot_general"]})
    return rows


def embed(size: str = "S", batch: int = 256, repeats: int = 7, **changes: Any) -> list[Row]:
    """`PretrainedEncoder.embed_batch` on whole images, mean over the tokens."""
    encoder = _encoder(size, **changes)
    data = _batch(encoder.config, batch)
    metadata = [data[name] for name in FIELDS]
    once = lambda: encoder.embed_batch(data["image"], metadata, "mean", batch)
    return _compiled("embed", size, batch, once, repeats, encoder_flops(encoder.config), **changes)


def experts(counts: tuple[int, ...] = (3, 5, 8, 16, 32, 64), tokens: int = 3840, repeats: int = 5) -> list[Row]:
    """One mixture (width 144, hidden 108, top 2), forward and gradient, by number of experts and dispatch."""
    normal, d, rows = _normal(), 144, []
    for e in counts:
        params = _expert_params(normal, e, d, 108)
        x, toward, logits = normal(tokens, d), normal(tokens, d), normal(tokens, e)
        gates = route(logits, jnp.ones_like(logits), None, 2).gates
        for dispatch in ("dense", "sparse"):
            loss = lambda x, g, p, how=dispatch, y=toward: jnp.sum(mix_experts(x, g, p, 2, how) * y)
            forward = jax.jit(lambda x, g, p, how=dispatch: mix_experts(x, g, p, 2, how))
            gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
            row: Row = {"part": "experts", "experts": e, "dispatch": dispatch, "tokens": tokens}
            for name, function in (("forward_ms", forward), ("gradient_ms", gradient)):
                row[name] = _median_ms(function, x, gates, params, repeats=repeats)
            rows.append(row)
    return rows


def kernels_(batch: int = 128, repeats: int = 5) -> list[Row]:
    """Value and gradient of each operation that has a version for CPU, at the shapes of size S in training: plain and fast."""
    normal, n, d, e = _normal(), 30, 144, 4
    params = _expert_params(normal, e, d, 108)
    arguments: dict[str, tuple[Any, ...]] = {
        "layer_norm": (normal(batch, n, d), normal(d), normal(d)),
        "attention": (normal(batch, n, d), normal(batch, n, d // 2), normal(batch, n, d // 2)),
        "shared_mixture": (normal(batch * n, d), jax.nn.softmax(normal(batch * n, e)), params),
    }
    rows: list[Row] = []
    for name, args in arguments.items():
        row: Row = {"part": "kernels", "operation": name, "batch": batch}
        for version in ("plain", "fast"):
            function = getattr(kernels, f"{version}_{name}")
            extra = (4,) if name == "attention" else ()
            loss = lambda *a, function=function, extra=extra: jnp.sum(jnp.sin(function(*a, *extra)))
            gradient = jax.jit(jax.grad(loss, argnums=tuple(range(len(args)))))
            row[f"{version}_ms"] = _median_ms(gradient, *args, repeats=repeats)
        rows.append(row)
    return rows


def input_(count: int = 2048, batch: int = 128, seconds: float = 4.0) -> list[Row]:
    """Batches out of prepared records (40 x 40 of 44 x 44), and the conversion of GeoTIFF patches to records."""
    from geomoe import data
    from geomoe.data.builders import LandsatFolder, SyntheticConfig, SyntheticLandsat
    from geomoe.data.synthetic import scene

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        config = SyntheticConfig(name="bench", counts={"train": count, "val": 1, "test": 1}, dominant=False)
        SyntheticLandsat(config=config, data_dir=folder).download_and_prepare()
        published = Statistics.published("bigearthnet_landsat")
        plain = data.LoadOptions(data_dir=folder, statistics=published, batch_size=batch, cache=True, train=True)
        augment = data.Augment(flips=True, rot90=True)
        augmented = dataclasses.replace(plain, resize_mode="random_crop", augment=augment)
        for name, options in (("centre crop", plain), ("random crop, flips, rotations", augmented)):
            batches = data.load("synthetic_landsat/bench", "train", options).as_numpy_iterator()
            for _ in range(2 * count // batch):
                next(batches)
            done, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < seconds:
                done += len(next(batches)["image"])
            rows.append({"part": "input", "what": name, "batch": batch, "per_s": done / spent})
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as out:
        images = [scene(0, "train", i).image[:40, :40] for i in range(32)]
        for i in range(count):
            _write_tif(os.path.join(folder, f"{i:05d}.tif"), images[i % 32])
        start = time.perf_counter()
        LandsatFolder(config="bench", source=folder, data_dir=out).download_and_prepare()
        rows.append({"part": "input", "what": "prepare", "per_s": count / (time.perf_counter() - start)})
    return rows


def hosts(
    counts: tuple[int, ...] = (1, 8, 64), shards: int = 1024, repeats: int = 4, count: int = 2442, batches: int = 300
) -> list[Row]:
    """The input of one of N hosts out of 10 million patches: 1,024 shards, all links to one of 4 x 2,442 synthetic patches.

    Each host reads its own records, and shuffles in memory. `seconds` are those to the first batch of 128, `per_s` the rate of
    the `batches` batches after it, `gbyte` the records of an epoch, `memory_gb` the process's peak so far.
    """
    from geomoe import data
    from geomoe.data.builders import SyntheticConfig, SyntheticLandsat

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        config = SyntheticConfig(name="bench", counts={"train": count, "val": 1, "test": 1}, dominant=False)
        builder = SyntheticLandsat(config=config, data_dir=folder)
        builder.download_and_prepare()
        directory = os.fspath(builder.info.data_dir)
        parts = sorted(name for name in os.listdir(directory) if "-train." in name)
        prefix = os.path.join(directory, parts[0].rpartition("-00000-of-")[0])
        records = repeats * b"".join(pathlib.Path(directory, name).read_bytes() for name in parts)
        shared = pathlib.Path(directory, "records")
        shared.write_bytes(records)
        for i in range(shards):
            os.link(shared, f"{prefix}-{i:05d}-of-{shards:05d}")
        info = os.path.join(directory, "dataset_info.json")
        with open(info) as file:
            facts = json.load(file)
        for split in facts["splits"]:
            if split["name"] == "train":
                split.update(shardLengths=[str(repeats * count)] * shards, numBytes=str(len(records) * shards))
        with open(info, "w") as file:
            json.dump(facts, file)
        for processes in counts:
            options = data.LoadOptions(
                data_dir=folder,
                statistics=Statistics.published("bigearthnet_landsat"),
                batch_size=128 * processes,
                process_count=processes,
                resize_mode="random_crop",
                augment=data.Augment(flips=True, rot90=True),
                train=True,
            )
            start = time.perf_counter()
            stream = data.load("synthetic_landsat/bench", "train", options).as_numpy_iterator()
            next(stream)
            first_s = time.perf_counter() - start
            seconds = timed(lambda stream=stream: [next(stream) for _ in range(batches)], repeats=1)[0]
            share = repeats * count * shards / processes
            row = {
                "part": "hosts",
                "hosts": processes,
                "patches": int(share),
                "gbyte": share * len(records) / (repeats * count) / 1e9,
            }
            rows.append(row | {"seconds": first_s, "per_s": batches * 128 / seconds, "memory_gb": peak_memory()})
    return rows


def probe(rows: int = 50_000, width: int = 144, classes: int = 19) -> list[Row]:
    """The linear probe (C = 1), kNN (k = 5) and scikit-learn's linear probe; labels depend on random features."""
    from sklearn.linear_model import LogisticRegression

    from geomoe.probing import knn_probe, linear_probe

    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows + 2000, width), np.float32)
    y = (x @ rng.standard_normal((width, classes)) + 4 * rng.standard_normal((len(x), classes)) > 6).astype(np.int32)
    train, test = (x[:rows], y[:rows]), (x[rows:], y[rows:])
    table: list[Row] = []
    for name, probe in (("linear", linear_probe), ("kNN", knn_probe)):
        seconds = timed(lambda probe=probe: probe(train, test, task="multilabel", resamples=0).scores, repeats=3)
        row = {"part": "probe", "what": name, "rows": rows, "seconds": statistics.median(seconds)}
        table.append({**row, "memory_gb": peak_memory()})
    start = time.perf_counter()
    for labels in train[1].T:
        LogisticRegression(max_iter=1000).fit(x[:rows], labels)
    table.append({"part": "probe", "what": "linear, scikit-learn", "rows": rows, "seconds": time.perf_counter() - start})
    return table


def scene_(side: int = 1540, size: str = "S", stride: int = 40) -> list[Row]:
    """A scene of side x side pixels from file to embeddings in a GeoTIFF."""
    from geomoe import embeddings
    from geomoe.data.synthetic import scene

    encoder, repeats = _encoder(size), -(-side // 40)
    image = np.tile(scene(0, "train", 0).image[:40, :40], (repeats, repeats, 1))[:side, :side]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "scene.tif")
        _write_tif(path, image)
        start = time.perf_counter()
        sink = embeddings.Sink(os.path.join(folder, "out.tif"))
        counts = embeddings.embed_scene(encoder, sink, path, stride=stride, time="2020-05-18")
        spent = time.perf_counter() - start
    row = {"part": "scene", "size": size, "side": side, "windows": counts["embedded"]}
    return [{**row, "per_s": counts["embedded"] / spent, "seconds": spent, "memory_gb": peak_memory()}]


PARTS: dict[str, Callable[..., list[Row]]] = {
    "train": train,
    "program": program,
    "embed": embed,
    "kernels": kernels_,
    "experts": experts,
    "input": input_,
    "hosts": hosts,
    "probe": probe,
    "scene": scene_,
}
