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
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"
_LONGEST_WAIT = 30 * 24 * 3600  # seconds; a process that dies ends the wait of the others long before


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


def share(count: int) -> tuple[int, int]:
    """The first of `count` things that are this process's, and the first that is not: as many for each process, in order."""
    index, processes = jax.process_index(), jax.process_count()
    return count * index // processes, count * (index + 1) // processes


def wait(name: str) -> None:
    """Wait until all processes are here."""
    processes = set(range(jax.process_count()))
    ocp.multihost.sync_global_processes(f"geomoe {name}", timeout=_LONGEST_WAIT, processes=processes)


def gathered(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes after each other, bit by bit as they are, in every process; (N, ...) numbers or text."""
    if jax.process_count() == 1:
        return rows
    wait("rows computed")  # for as long as it takes, which a collective operation would not
    sizes = multihost_utils.process_allgather(np.array([len(rows), rows.dtype.itemsize], np.int32))
    if rows.dtype.kind == "U":
        rows = rows.astype(f"U{sizes[:, 1].max() // 4}")
    width = rows.dtype.itemsize * int(np.prod(rows.shape[1:]))
    padded = np.zeros((sizes[:, 0].max(), width), np.uint8)
    padded[: len(rows)] = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).reshape(len(rows), width)
    each = multihost_utils.process_allgather(padded)
    joined = np.concatenate([part[:count] for part, count in zip(each, sizes[:, 0])])
    return joined.reshape(-1).view(rows.dtype).reshape(-1, *rows.shape[1:])


def snapshot(tree: Any) -> Any:
    """A copy of a replicated tree, over the devices of all processes, for Orbax to save while training goes on.

    A copy, because the next step reuses the donated buffers, which on CPU Orbax would still be reading. Over all processes,
    because in a run of several `pmap` gives arrays that know the devices of their own process alone.
    """
    return jax.tree.map(jnp.copy, tree) if jax.process_count() == 1 else replicate(fetch(tree))


def on_one_device(tree: Any) -> Any:
    """A replicated tree as it lies on the first device of this process, without a copy."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data, tree)


def fetch(tree: Any) -> Any:
    """A replicated tree as numpy, without moving it between devices."""
    return jax.tree.map(np.asarray, on_one_device(tree))


def summed(tree: Any) -> Any:
    """The sums over the processes of a tree of numbers that each has on its host; of several processes in float32."""
    if jax.process_count() == 1:
        return tree
    each = multihost_utils.process_allgather(jax.tree.map(np.float32, tree))
    return jax.tree.map(lambda values: np.sum(values, axis=0), each)


def shard_batch(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(B, ...) of this process to (local devices, B / local devices, ...)."""
    n = jax.local_device_count()
    return {name: value.reshape(n, -1, *value.shape[1:]) for name, value in batch.items()}


def send(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch of this process on its devices."""
    sharding = NamedSharding(_mesh(), PartitionSpec(AXIS))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in shard_batch(batch).items()}


def prefetch(batches: Iterable[Mapping[str, np.ndarray]], depth: int = 2) -> Iterator[dict[str, jax.Array]]:
    """Sends batches of this process to its devices, `depth` of them ahead of use."""
    source = iter(batches)
    queue = collections.deque(send(batch) for batch in itertools.islice(source, depth))
    while queue:
        yield queue.popleft()
        queue.extend(send(batch) for batch in itertools.islice(source, 1))
