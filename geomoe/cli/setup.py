"""What every script does first: quiet libraries, the compilation cache, processes; and errors without a stack of frames."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

_USER_ERRORS = (
    ValueError,
    FileNotFoundError,
    FloatingPointError,
    NotADirectoryError,
    PermissionError,
    AttributeError,
    KeyError,
)


def start(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Prepares JAX: a persistent compilation cache, and several processes where asked for.

    The cache is in $GEOMOE_CACHE, or else ~/.cache/geomoe; an empty GEOMOE_CACHE turns it off. On TPU pods and under
    cluster managers that JAX knows, set GEOMOE_DISTRIBUTED=1 and leave the arguments out.
    """
    import absl.logging
    import jax

    from geomoe import compilation

    absl.logging.set_verbosity(absl.logging.ERROR)
    _keep_freed_memory()
    compilation.set_flags()
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # or a step begins before the last one's memory is given back
    cache = os.environ.get("GEOMOE_CACHE", os.path.join(os.path.expanduser("~"), ".cache", "geomoe"))
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if coordinator is not None:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif os.environ.get("GEOMOE_DISTRIBUTED") == "1":
        jax.distributed.initialize()


def _keep_freed_memory() -> None:
    """Has the C library keep large blocks that are freed, on Linux.

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


def clear_errors(run: Callable[..., Any], *args: Any) -> int:
    """Calls `run(*args)`; a mistake of the user's ends in one line on stderr and exit code 1.

    GEOMOE_TRACEBACK=1 shows the whole traceback.
    """
    if os.environ.get("GEOMOE_TRACEBACK") == "1":
        run(*args)
        return 0
    try:
        run(*args)
    except _USER_ERRORS as error:
        while error.args and isinstance(error.args[0], Exception):  # ml_collections puts a KeyError into an AttributeError
            error = error.args[0]
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {text}\n(GEOMOE_TRACEBACK=1 shows where)", file=sys.stderr)
        return 1
    return 0
