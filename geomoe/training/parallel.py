"""Over devices and processes: the only place that names `jax.pmap`.

State and keys are replicated (`in_axes=None`): since jax 0.8 `pmap` is a jit of `shard_map`, which takes and gives arrays that
are whole on every device, so they need no leading device axis. Batches have one: (local devices, batch a device, ...).
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"


def map_train_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step(state, batch, key)` over all devices; the state is donated."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=(0,))


def map_eval_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step(params, batch, key)` over all devices."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=None)


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def replicate(tree: Any) -> Any:
    """Puts a tree of arrays on every device, whole."""
    sharding = NamedSharding(_mesh(), PartitionSpec())
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x, np.shape(x)), tree)


def agreed(value: int) -> int:
    """The first process's value, in every process."""
    return value if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def snapshot(tree: Any) -> Any:
    """A copy of a replicated tree, over the devices of all processes, for Orbax to save while training goes on.

    A copy, because the next step reuses the donated buffers, which on CPU Orbax would still be reading. Over all processes,
    because in a run of several `pmap` gives arrays that know the devices of their own process alone.
    """
    return jax.tree.map(jnp.copy, tree) if jax.process_count() == 1 else replicate(fetch(tree))


def fetch(tree: Any) -> Any:
    """A replicated tree as numpy, without moving it between devices."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data), tree)


def shard_batch(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(B, ...) of this process to (local devices, B / local devices, ...)."""
    n = jax.local_device_count()
    return {name: value.reshape(n, -1, *value.shape[1:]) for name, value in batch.items()}


def prefetch(batches: Iterable[Mapping[str, np.ndarray]], depth: int = 2) -> Iterator[dict[str, jax.Array]]:
    """Sends batches of this process to its devices, `depth` of them ahead of use."""
    sharding = NamedSharding(_mesh(), PartitionSpec(AXIS))

    def put(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in shard_batch(batch).items()}

    source = iter(batches)
    queue = collections.deque(put(batch) for batch in itertools.islice(source, depth))
    while queue:
        yield queue.popleft()
        queue.extend(put(batch) for batch in itertools.islice(source, 1))
