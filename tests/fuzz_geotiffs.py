"""Read mutated GeoTIFFs, one after the other: `python fuzz_geotiffs.py FOLDER FIRST COUNT`, a line of JSON for each.

Mutation i is a function of i alone. A process of its own, since a crash of a library must be seen and not be the test's end.
"""

import json
import pathlib
import re
import sys
import time

import numpy as np
import rasterio
from geotiffs import pixels, write_tif

from geomoe.data.geotiff import PatchError, read_patch

FORMS = (
    {},
    {"compress": "lzw"},
    {"compress": "deflate", "predictor": 2},
    {"compress": "zstd"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16},
    {"interleave": "band", "nodata": 65535},
    {"BIGTIFF": "YES"},
    {"descriptions": ["swir2", "coastal", "red", "blue", "nir", "green", "swir1"]},
    {"tags": {"TIFFTAG_DATETIME": "2020:01:02 03:04:05", "AREA_OR_POINT": "Point"}},
    {"mask": True},
)


def originals(folder: pathlib.Path) -> list[bytes]:
    """Small files of every form that users have."""
    files = []
    for form in FORMS:
        options = dict(form)
        masked = options.pop("mask", False)
        path = write_tif(folder / "original.tif", pixels(size=(20, 17)), **options)
        if masked:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
                file.write_mask(np.eye(20, 17) == 0)
        files.append(path.read_bytes())
    return files


def mutate(data: bytes, seed: int) -> bytes:
    """Flip bits, write extreme numbers, cut, repeat or exchange pieces, most often in the tags at the beginning or the end."""
    rng = np.random.default_rng(seed)
    out = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        if len(out) < 16:
            break
        near_tags = rng.random() < 0.7
        start = int(rng.integers(0, min(len(out), 700))) if near_tags else int(rng.integers(0, len(out)))
        kind = rng.integers(0, 6)
        if kind == 0:
            out[start] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            extreme = rng.choice([0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
            out[start : start + 4] = int(extreme).to_bytes(4, "little")
        elif kind == 2:
            out = out[: max(start, 8)]
        elif kind == 3:
            out[start:start] = out[start : start + int(rng.integers(1, 64))]
        elif kind == 4:
            other = int(rng.integers(0, len(out)))
            length = int(rng.integers(1, 16))
            out[start : start + length] = out[other : other + length]
        else:
            out[start : start + 8] = rng.bytes(8)
    return bytes(out)


def main() -> None:
    folder, first, count = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    files = originals(folder)
    for i in range(first, first + count):
        path = folder / "mutated.tif"
        path.write_bytes(mutate(files[i % len(files)], i))
        print(json.dumps({"begun": i}), flush=True)
        start = time.perf_counter()
        try:
            image = read_patch(path, need_crs=False).image
            result = "read" if image.ndim == 3 and image.shape[2] in (6, 7) else f"shape {image.shape}"
        except PatchError as error:
            result = "refused" if str(path) in str(error) else f"unnamed: {error}"
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start
        status = pathlib.Path("/proc/self/status").read_text()  # the peak of getrusage is the parent's, where that was higher
        peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024
        print(json.dumps({"done": i, "result": result, "seconds": round(seconds, 3), "peak_mb": round(peak)}), flush=True)


if __name__ == "__main__":
    main()
