"""Says what a scene, a run directory, embeddings, their catalogue, weights or a STAC item are: `geomoe info PATH`."""

import argparse
import os
import sys
from typing import Any

from geomoe.cli.setup import clear_errors, program
from geomoe.landsat import LOG


def describe(path: str) -> dict[str, Any]:
    """What stands at a path or address, as names and values.

    Raises:
        FileNotFoundError, ValueError: there is nothing, or nothing that geomoe knows.
    """
    from geomoe.data.raster import is_remote
    from geomoe.embeddings.rasters import is_map
    from geomoe.embeddings.results import is_catalogue
    from geomoe.training.run_file import is_run
    from geomoe.weights import PACKAGED, is_address

    named = is_address(path) or (path in PACKAGED and not (os.path.isfile(path) or is_run(path) or is_catalogue(path)))
    if path.lower().endswith((".safetensors", ".pth")) or (named and not path.lower().endswith((".tif", ".tiff", ".json"))):
        return _of_weights(path)
    if not is_remote(path) and not os.path.exists(path):
        raise FileNotFoundError(f"nothing at {path}")
    if is_run(path):
        return _of_run(path)
    if is_catalogue(path):
        return _of_catalogue(path)
    of_tif = path.endswith(".tif") and not is_remote(path) and is_map(path)
    if of_tif or path.rstrip("/").endswith((".parquet", ".npz", ".zarr")):
        return _of_embeddings(path)
    if path.endswith(".json"):
        from geomoe.data.stac import read_items

        items = read_items(path)
        return {"kind": "STAC item" if len(items) == 1 else f"{len(items)} STAC items", **_of_scene(items[0])}
    return {"kind": "scene", **_of_scene(path)}


def _of_weights(path: str) -> dict[str, Any]:
    from geomoe.pretrained import load

    encoder = load(path)
    facts = {"kind": "weights", **_of_encoder(encoder)}
    return facts | {f"card: {key}": value for key, value in encoder.card.items()}


def _of_encoder(encoder: Any) -> dict[str, Any]:
    config = encoder.config
    return {
        "parameters": f"{encoder.num_params:,} of the encoder",
        "embedding": f"{encoder.embed_dim} numbers",
        "image": f"{config.img_size} x {config.img_size} pixels, {', '.join(encoder.bands)}",
        "patch": f"{config.patch_size} x {config.patch_size} pixels",
        "statistics": encoder.statistics.source + ", of the logarithm" * (encoder.statistics.scale == LOG),
        "decoder": "yes" if "decoder" in encoder.params else "no",
        "SHA-256 of the weights": encoder.fingerprint,
    }


def _of_run(path: str) -> dict[str, Any]:
    from geomoe.pretrained import load
    from geomoe.training.run_file import read_run

    facts = read_run(path)
    encoder = load(path)
    return {
        "kind": "run directory",
        "dataset": facts.get("dataset", ""),
        "checkpoint": encoder.source.rpartition(" step ")[2],
        "geomoe": facts.get("geomoe_version", ""),
        **_of_encoder(encoder),
    }


def _of_embeddings(path: str) -> dict[str, Any]:
    from geomoe.embeddings import read

    table = read(path)
    rows, facts = table["embedded"], table["facts"]
    out: dict[str, Any] = {"kind": "embeddings", "rows": f"{len(rows):,}, {int(rows.sum()):,} of them embedded"}
    out["width"] = table["vector"].shape[1]
    keys = ("pool", "encoder", "encoder_sha256", "dataset", "split", "folder", "scene", "geomoe_version")
    out |= {key: facts[key] for key in keys if key in facts}
    for key, value in facts.get("input", {}).items():
        out[f"input: {key}"] = value["source"] if key == "statistics" and isinstance(value, dict) else value
    return out


def _of_catalogue(path: str) -> dict[str, Any]:
    from geomoe.embeddings.results import RESULTS, read_results

    results = read_results(path)
    there = [result for result in results if result.output]
    rows, embedded = (sum(getattr(result, name) for result in there) for name in ("patches", "embedded"))
    out = {"kind": "catalogue of embeddings", "scenes": f"{len(there):,} embedded, {len(results) - len(there):,} failed"}
    out["rows"] = f"{rows:,}, {embedded:,} of them embedded"
    out |= {f"failed: {result.scene}": result.error for result in results if result.error and len(out) < 8}
    return out | {"all scenes": os.path.join(path, RESULTS)}


def _of_scene(path: Any) -> dict[str, Any]:
    from geomoe.data.scene import open_scene

    info = open_scene(path)
    return {
        "name": info.name,
        "sensor": info.sensor,
        "unit": info.unit or "not said: give unit",
        "time": str(info.time) if str(info.time) != "NaT" else "not said",
        "sun elevation": info.sun_elevation if info.sun_elevation is not None else "not said",
        "size": f"{info.height} x {info.width} pixels",
        "CRS": info.crs.to_string() if info.crs else "none",
        "bands": ", ".join(info.files),
        "quality band": info.qa.kind if info.qa else "none",
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("info"), description=__doc__)
    parser.add_argument("path", help="a path, an address, or the name of published weights")
    args = parser.parse_args(argv)
    facts = describe(args.path)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    sys.exit(clear_errors(main))
