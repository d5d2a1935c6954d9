"""The encoder as StableHLO: a file that runs wherever JAX (or another StableHLO runtime) does, without this package.

The file is what `jax.export` serialises; `geomoe.export.files` says what its function takes and gives. JAX guarantees to read
it for six months of its versions only, so the facts beside it say until when, and `load_exported` looks.
"""

import calendar
import datetime
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.export  # a module of its own, not brought by `import jax`
import jax.numpy as jnp
import numpy as np

from geomoe import compilation, landsat
from geomoe.export.files import function_facts, write_function
from geomoe.models import encode
from geomoe.models.pooling import Pool, check_pool, pool_tokens
from geomoe.pretrained import PretrainedEncoder

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# https://docs.jax.dev/en/latest/export/export.html, "Compatibility guarantees".
GUARANTEE = "JAX guarantees to read a StableHLO file for six months of its versions only"
_MONTHS = 6


@compilation.isolated
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
        The facts in PATH.json: shapes, bands, unit, normalisation, platforms, bytes; the version that wrote the file,
        `jax_version`, and the day on which six months are over, `expires`.

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
        pooled = pool_tokens(encode(cfg, params, z, *metadata, valid=valid), metadata, cfg, pool)
        some = jnp.expand_dims(jnp.any(valid, axis=(1, 2)), range(1, pooled.ndim))
        return jnp.where(some, pooled, jnp.nan)

    (count,) = jax.export.symbolic_shape("n")
    image = jax.ShapeDtypeStruct((count, cfg.img_size, cfg.img_size, cfg.in_channels), jnp.float32)
    pair = jax.ShapeDtypeStruct((count, 2), jnp.float32)
    exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(image, pair, pair, pair, pair)
    expires = _after_months(datetime.date.today(), _MONTHS).isoformat()
    facts = function_facts(encoder, pool) | {
        "platforms": list(platforms),
        "jax_version": jax.__version__,
        "expires": expires,
        "guarantee": f"{GUARANTEE}; export it again after {expires}, or keep JAX {jax.__version__}",
    }
    return write_function(path, bytes(exported.serialize()), facts)


def load_exported(path: str | os.PathLike[str]) -> jax.export.Exported:
    """Read a file of `export_encoder`; its `call` takes images, week, hour, lat, lon (see `geomoe.export.files`).

    JAX of the version that wrote the file reads it for ever, another one up to the day `expires` of PATH.json.

    Raises:
        FileNotFoundError: PATH or PATH.json is not there.
        ValueError: the file is damaged, expired, or JAX cannot read it.
    """
    name = os.fspath(path)
    for part, what in ((name, "the exported function"), (f"{name}.json", "which says what it is and must stand beside it")):
        if not os.path.exists(part):
            raise FileNotFoundError(f"nothing at {part}, {what}")
    try:
        with open(f"{name}.json", encoding="utf-8") as file:
            facts = json.load(file)
        version, expires = facts["jax_version"], facts.get("expires")
        day = None if expires is None else datetime.date.fromisoformat(expires)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}.json is no description of an exported function ({error}); export the encoder again") from None
    with open(name, "rb") as file:
        blob = file.read()
    if "sha256" in facts and hashlib.sha256(blob).hexdigest() != facts["sha256"]:
        raise ValueError(f"{name} is not the file that {name}.json describes: it is damaged or was replaced; copy both again")
    remedy = f"{GUARANTEE}. Export the encoder again (python -m geomoe.cli.convert), or use JAX {version}"
    if version != jax.__version__ and day is not None and datetime.date.today() > day:
        raise ValueError(
            f"{name} was written by JAX {version} and expired on {expires}; this is JAX {jax.__version__}. {remedy}"
        )
    try:
        return jax.export.deserialize(bytearray(blob))
    except Exception as error:  # flatbuffers and MLIR raise kinds of their own
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name}: JAX {jax.__version__} cannot read it ({cause}). {remedy}") from error


def _after_months(day: datetime.date, months: int) -> datetime.date:
    """The same day so many months later, or the last of that month."""
    years, month = divmod(day.month - 1 + months, 12)
    year, month = day.year + years, month + 1
    return datetime.date(year, month, min(day.day, calendar.monthrange(year, month)[1]))
