"""How programs are compiled: the one place where XLA is told what the platform needs.

On CPU, XLA's newer emitters of fused loops (jax 0.10) leave many loops of this model unvectorised and need over a gigabyte to
compile the training step; the older ones take the step at size S from 1.4 s to 0.9 s (2 cores, batch 128). The scheduler that
thinks of memory first takes its temporary memory from 1.30 to 1.00 GB at the same speed. On GPU and TPU nothing is changed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax

CPU_OPTIONS = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
_CPU_IMAGES = 32
_KNOWN_JAX = (0, 10)  # an XLA that does not know an option refuses to start


def set_flags() -> None:
    """Sets the options for the whole process, through XLA_FLAGS: for scripts, before JAX touches a device."""
    if jax.__version_info__[:2] == _KNOWN_JAX:
        given = os.environ.get("XLA_FLAGS", "")
        ours = [f"--{name}={value}" for name, value in CPU_OPTIONS.items() if name not in given]
        os.environ["XLA_FLAGS"] = " ".join([given, *ours]).strip()


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` with the options, for programs of a library that must leave the process alone. Not inside another jit."""

    @functools.cache
    def compiled() -> Callable[..., Any]:
        cpu = jax.default_backend() == "cpu" and jax.__version_info__[:2] == _KNOWN_JAX
        return jax.jit(function, compiler_options=CPU_OPTIONS if cpu else None, **options)

    return functools.wraps(function)(lambda *args: compiled()(*args))


def images_at_once(count: int, devices: int) -> int:
    """How many of the `count` images of a batch go through the encoder together: a divisor of it.

    All of them, but on a single CPU device 32, whose activations stay in the caches: a fifth faster at size S than 256.
    """
    if jax.default_backend() != "cpu" or devices > 1 or count % _CPU_IMAGES:
        return count
    return _CPU_IMAGES
