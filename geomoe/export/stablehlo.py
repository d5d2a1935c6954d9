"""The encoder as StableHLO: a file that runs wherever JAX (or another StableHLO runtime) does, without this package.

The file is what `jax.export` serialises. Its function takes digital numbers and metadata pairs and gives embeddings; weights
and normalisation are inside:

    embeddings = function(images, week, hour, lat, lon)

images (N, S, S, C) float32, Collection 2 digital numbers, 0 or NaN without data (which does not speak); week, hour, lat, lon
(N, 2) float32 [sin, cos] pairs, [0, 0] where unknown; embeddings (N, D) float32. N is free.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.export  # a module of its own, not brought by `import jax`
import jax.numpy as jnp
import numpy as np

from geomoe import landsat
from geomoe.files import atomic_open
from geomoe.metadata import FIELDS
from geomoe.models import encode
from geomoe.models.pooling import Pool, check_pool, pool_name, pool_tokens
from geomoe.pretrained import PretrainedEncoder

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_encoder(
    encoder: PretrainedEncoder,
    path: str | os.PathLike,
    *,
    pool: Pool = "mean",
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> dict[str, Any]:
    """Write PATH (the serialised function) and PATH.json (what it is).

    Args:
        pool: as for `PretrainedEncoder.embed`.
        platforms: that the file is lowered for; none of them needs to be there.

    Returns:
        The facts in PATH.json: shapes, bands, unit, normalisation, platforms, bytes.

    Raises:
        ValueError: an unknown platform or pool.
    """
    for platform in platforms:
        if platform not in PLATFORMS:
            raise ValueError(f"platform {platform!r} is not one of {', '.join(PLATFORMS)}")
    check_pool(pool)
    cfg = encoder.config
    params = jax.tree.map(np.asarray, encoder.params["encoder"])

    def function(images: jax.Array, week: jax.Array, hour: jax.Array, lat: jax.Array, lon: jax.Array) -> jax.Array:
        metadata = week, hour, lat, lon
        valid = jnp.all(images > landsat.NODATA, axis=-1)  # False for NaN as well
        z = encoder.statistics.normalize(jnp.nan_to_num(images))
        return pool_tokens(encode(cfg, params, z, *metadata, valid=valid), metadata, cfg, pool)

    (count,) = jax.export.symbolic_shape("n")
    image = jax.ShapeDtypeStruct((count, cfg.img_size, cfg.img_size, cfg.in_channels), jnp.float32)
    pair = jax.ShapeDtypeStruct((count, 2), jnp.float32)
    exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(image, pair, pair, pair, pair)
    blob = exported.serialize()
    facts = {
        "inputs": {"images": ["N", cfg.img_size, cfg.img_size, cfg.in_channels], **{name: ["N", 2] for name in FIELDS}},
        "output": ["N", *exported.out_avals[0].shape[1:]],
        "bands": list(encoder.bands),
        "unit": "collection2_dn",
        "normalisation (inside)": {key: encoder.statistics[key] for key in ("mean", "std")},
        "pool": pool_name(pool),
        "platforms": list(platforms),
        "encoder": encoder.source,
        "jax_version": jax.__version__,
        "bytes": len(blob),
    }
    with atomic_open(path, "wb") as file:
        file.write(bytes(blob))
    with atomic_open(f"{os.fspath(path)}.json") as file:
        json.dump(facts, file, indent=1)
    return facts
