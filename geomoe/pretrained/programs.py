"""The compiled programs of a frozen encoder, and the batches of fixed sizes that they take."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from geomoe import compilation
from geomoe.models import ModelConfig, TokenOutput, encode
from geomoe.models.pooling import Pool, pool_tokens


@functools.lru_cache(maxsize=1)
def local_mesh() -> Mesh:
    """The devices of this process, along one axis of images."""
    return Mesh(np.array(jax.local_devices()), ("images",))


@functools.partial(compilation.jit, static_argnums=0)
def apply(config: ModelConfig, params: Any, valid: jax.Array | None, *inputs: jax.Array) -> TokenOutput:
    """Images and metadata -> tokens."""
    return encode(config, params, *inputs, valid=valid)


@functools.partial(compilation.jit, static_argnums=(0, 1))
def embed(config: ModelConfig, pool: Pool, params: Any, *inputs: jax.Array) -> jax.Array:
    """Images, week, hour, lat, lon and, where some pixels hold no data, which do, -> embeddings."""

    def some(part: tuple[jax.Array, ...]) -> jax.Array:
        valid = part[5] > 0 if len(part) > 5 else None
        return pool_tokens(encode(config, params, *part[:5], valid=valid), part[1:5], config, pool)

    count = len(inputs[0])
    size = compilation.images_at_once(count, jax.local_device_count())
    if count == size:
        return some(inputs)
    z = jax.lax.map(some, tuple(x.reshape(-1, size, *x.shape[1:]) for x in inputs))
    return z.reshape(-1, *z.shape[2:])


def pad(arrays: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    """(n, ...) -> (size, ...) float32, with zeros at the end."""
    return [np.pad(np.asarray(x, np.float32), [(0, size - len(x))] + [(0, 0)] * (np.ndim(x) - 1)) for x in arrays]


def padded_size(count: int, batch_size: int) -> int:
    """The next power of two, from 8 on, but no more than a whole batch: few compiled programs for any number of images."""
    return max(min(max(8, 1 << (count - 1).bit_length()), batch_size), count)
