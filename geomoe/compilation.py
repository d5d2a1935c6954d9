"""How programs are compiled and where their memory comes from: the one place that sets what a platform needs.

On CPU, XLA's newer emitters of fused loops (jax 0.10) leave many loops of this model unvectorised and need over a gigabyte to
compile the training step; the older ones take the step at size S from 1.4 s to 0.9 s (2 cores, batch 128). The scheduler that
minimises memory takes its temporary memory from 1.30 to 1.00 GB at the same speed. On GPU and TPU nothing is changed.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

CPU_OPTIONS = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
_CPU_IMAGES = 32
Function = TypeVar("Function", bound=Callable[..., Any])
_process = {"used": False, "forked": False}  # whether JAX was used in this process; whether this is a fork of one where it was
_KNOWN_JAX = (0, 10)  # an XLA that does not know an option refuses to start


def set_flags() -> None:
    """Set the options for the whole process, through XLA_FLAGS: for scripts, before JAX touches a device."""
    if jax.__version_info__[:2] == _KNOWN_JAX:
        flags = os.environ.get("XLA_FLAGS", "")
        extra = [f"--{name}={value}" for name, value in CPU_OPTIONS.items() if name not in flags]
        os.environ["XLA_FLAGS"] = " ".join([flags, *extra]).strip()


def keep_freed_memory() -> None:
    """Have the C library keep large blocks that are freed, on Linux: for scripts.

    XLA on CPU takes the temporary memory of a program anew for every call. Given back to the system each time, it comes again
    as hundreds of thousands of page faults a training step, a quarter of its time at size S.
    """
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # names of mallopt(3)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(arena_max, 1)


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` with the options, for programs of a library that must leave the process alone. Not inside another jit."""

    @functools.cache
    def compiled() -> Callable[..., Any]:
        cpu = jax.default_backend() == "cpu" and jax.__version_info__[:2] == _KNOWN_JAX
        return jax.jit(function, compiler_options=CPU_OPTIONS if cpu else None, **options)

    return functools.wraps(function)(lambda *args: compiled()(*args))


def isolated(function: Function) -> Function:
    """Have a function of the library run in 32 bits, with broadcasting of any rank and products of float32 in float32, whatever
    the program sets.

    By itself JAX shortens the factors of such products to 10 bits on NVIDIA's GPUs (TF32) and to 8 on TPUs. Embeddings of
    geomoe-s on an H200 were 4e-3 from the CPU's by that, and are 5e-7 from them in float32, for a quarter of the speed:
    training may have it so, but what is compared with numbers of another machine may not.

    The function raises RuntimeError in a fork of a process that has used JAX, whose threads a fork lacks: it would hang.
    """

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        if _process["forked"]:
            start = "multiprocessing.get_context('spawn'), or multiprocessing_context='spawn' of a DataLoader"
            raise RuntimeError(f"JAX does not survive a fork; start worker processes by {start}")
        _process["used"] = True
        with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.default_matmul_precision("highest"):
            return function(*args, **options)

    return cast(Function, run)


os.register_at_fork(after_in_child=lambda: _process.update(forked=_process["used"]))


def images_at_once(count: int, devices: int) -> int:
    """How many of the `count` images of a batch go through the encoder together: a divisor of it.

    All of them, but on a single CPU device 32, whose activations stay in the caches: a fifth faster at size S than 256.
    """
    if jax.default_backend() != "cpu" or devices > 1 or count % _CPU_IMAGES:
        return count
    return _CPU_IMAGES
