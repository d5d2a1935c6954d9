"""What every script does first: quiet libraries, the compilation cache, processes; and errors without a stack of frames."""

import argparse
import atexit
import ctypes
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

_USER_ERRORS = (ValueError, OSError, FloatingPointError, AttributeError, KeyError, ImportError)


_EXTRAS = {"matplotlib": "report", "tensorboard": "train"}  # packages, and the extra that brings them
TRY_AGAIN = os.EX_TEMPFAIL  # 75, the exit code of what the same command would go on with
_HEARTBEAT_SECONDS = 20  # without a sign of life, after which a process of a run counts as dead


PROCESSES = {  # options of commands that run in several processes -> type, and what they are
    "coordinator": (str, "host:port of process 0, for runs of several processes"),
    "num_processes": (int, "number of processes"),
    "process_id": (int, "index of this process"),
}
DISTRIBUTED = "find the processes of a TPU pod, Slurm, Open MPI or Kubernetes"


def program(command: str) -> str:
    """The words that a command was called by, for its usage: `geomoe COMMAND`, or its module's."""
    called = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    return f"geomoe {command}" if called in ("geomoe", "main") else f"python -m geomoe.cli.{command}"


def add_process_arguments(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    """Add the options of several processes; what is returned calls `start` with their values."""
    for name, (kind, what) in PROCESSES.items():
        parser.add_argument(f"--{name}", type=kind, help=what)
    parser.add_argument("--distributed", action="store_true", help=DISTRIBUTED)
    return lambda args: start(**{name: getattr(args, name) for name in PROCESSES}, distributed=args.distributed)


def define_process_flags() -> Callable[[], None]:
    """Define absl's flags of several processes; what is returned calls `start` with their values."""
    from absl import flags

    define: dict[type, Callable[..., Any]] = {str: flags.DEFINE_string, int: flags.DEFINE_integer}
    values = {name: define[kind](name, None, what) for name, (kind, what) in PROCESSES.items()}
    values["distributed"] = flags.DEFINE_bool("distributed", False, DISTRIBUTED)
    return lambda: start(**{name: value.value for name, value in values.items()})


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, distributed: bool = False
) -> None:
    """Prepare JAX: a persistent compilation cache, and several processes where asked for.

    The cache is in $GEOMOE_CACHE, or else ~/.cache/geomoe; an empty GEOMOE_CACHE turns it off.

    Args:
        coordinator, num_processes, process_id: host:port of process 0, how many processes, which this is; all or none.
        distributed: find them as JAX does on Cloud TPU, Slurm, Open MPI and Kubernetes, as GEOMOE_DISTRIBUTED=1 says too.

    Raises:
        ValueError: some of the arguments are missing, JAX recognises no cluster, or has no device of JAX_PLATFORMS.
    """
    processes = dict(coordinator=coordinator, num_processes=num_processes, process_id=process_id)
    missing = [f"--{name}" for name, value in processes.items() if value is None]
    if 0 < len(missing) < len(processes):
        raise ValueError(
            f"{', '.join(missing)} missing: several processes need --coordinator, --num_processes and --process_id"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow only reads data here
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # and announces this one before it does
    import absl.logging
    import jax

    from geomoe import compilation

    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax logs what it raises, and asyncio what else went wrong beside it
    absl.logging.use_absl_handler()  # before TensorFlow's C++ says that nobody has
    compilation.keep_freed_memory()
    compilation.set_flags()
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # or a step begins before the last one's memory is given back
    cache = os.environ.get("GEOMOE_CACHE", os.path.join(os.path.expanduser("~"), ".cache", "geomoe"))
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if coordinator is not None or distributed or os.environ.get("GEOMOE_DISTRIBUTED") == "1":
        _join(coordinator, num_processes, process_id)
    _check_devices()


def _check_devices() -> None:
    """Raise ValueError where JAX has no device of the kind that JAX_PLATFORMS asks for."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # an assertion where no installed package knows the platform
        asked = os.environ.get("JAX_PLATFORMS")
        if not asked or _several_processes():
            raise
        detail = f": {_text(error)}" if str(error) else ""
        advice = "unset it to take what there is, or install JAX for that kind of device (docs/install.md)"
        raise ValueError(f"JAX finds no device for JAX_PLATFORMS={asked}{detail}; {advice}") from error


def _join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the processes of a run. If one of them dies, JAX ends this one in a thread of its own, with a dump and by abort:
    the dump goes to a file, and the abort says a sentence."""
    import jax

    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    except ValueError as error:
        raise ValueError(
            f"JAX cannot join processes ({error}): under Cloud TPU, Slurm, Open MPI and Kubernetes it finds them by itself "
            "(--distributed); elsewhere give --coordinator, --num_processes and --process_id"
        ) from error
    with tempfile.NamedTemporaryFile(prefix=f"geomoe-process-{jax.process_index()}-", suffix=".log", delete=False) as log:
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        os.dup2(log.fileno(), 2)  # what is not Python's
    atexit.register(os.remove, log.name)  # where all ends well

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def aborted(_: int) -> None:
        _other_ended(f"JAX says more in {log.name}")

    _HANDLERS.append(aborted)
    ctypes.CDLL(None).signal(
        signal.SIGABRT, aborted
    )  # Python's own handlers wait for the main thread, which waits for the dead


_HANDLERS: list[Any] = []  # kept alive for the system to call


def _other_ended(detail: str) -> NoReturn:
    again = "the same command on all of them goes on from the last checkpoint"
    print(f"error: another process of this run ended or cannot be reached; {again} ({detail})", file=sys.stderr, flush=True)
    os._exit(TRY_AGAIN)  # an ordinary exit would wait for the others


def clear_errors(run: Callable[..., Any], *args: Any) -> int:
    """Call `run(*args)`; a mistake of the user's ends in one line on stderr and exit code 1.

    GEOMOE_TRACEBACK=1 shows the whole traceback.
    """
    if os.environ.get("GEOMOE_TRACEBACK") == "1":
        run(*args)
        return 0
    try:
        run(*args)
    except Exception as error:
        if _several_processes() and _lost_connection(error):
            _other_ended(_text(error).partition("\n")[0])
        if not isinstance(error, _USER_ERRORS) and not _is_damaged_shard(error):
            raise
        print(f"error: {_text(error)}\n(GEOMOE_TRACEBACK=1 shows where)", file=sys.stderr, flush=True)
        if _several_processes():
            os._exit(1)  # an ordinary exit would wait for the others, who wait for this one
        return 1
    return 0


def _is_damaged_shard(error: BaseException) -> bool:
    return type(error).__name__ == "DataLossError"  # TensorFlow's, which is not imported for its sake


def _lost_connection(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that of a collective operation or of the coordinator, as JAX words it."""
    status = r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): "
    return error is not None and (re.match(status, str(error)) is not None or _lost_connection(error.__cause__))


def _several_processes() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _text(error: BaseException) -> str:
    """What an error says, without quotes around quotes."""
    if _is_damaged_shard(error):
        what = str(error).rsplit("}} ", 1)[-1].split(" [")[0]
        return f"a shard of a prepared dataset is damaged ({what}); `python -m geomoe.cli.prepare ... --verify` says which"
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"this needs {error.name}: pip install 'geomoe[{_EXTRAS[error.name]}]'"
    while error.args and isinstance(error.args[0], Exception):  # ml_collections puts a KeyError into an AttributeError
        error = error.args[0]
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    misspelt = isinstance(error, AttributeError | KeyError) and "Did you mean" in text
    if misspelt or isinstance(error, KeyError) and " " not in text:  # which name the key alone
        return f"unknown config key {text}" if misspelt else f"unknown key {text}"
    return text


def run_config_script(main: Callable[[list[str]], Any], example: str) -> int:
    """Run a script whose flags are absl's and whose `--config` is a config file; returns its exit code.

    Args:
        main: called with the arguments that are no flags.
        example: a command to show where flags are missing.
    """
    from absl import app

    return clear_errors(lambda: app.run(main, flags_parser=lambda argv: _parse_flags(argv, example)))


def _parse_flags(argv: Sequence[str], example: str) -> list[str]:
    """Parse absl's flags, with errors that name the config file and say what to do."""
    import ml_collections
    from absl import flags

    config = next((m[1] for m in (re.match(r"--?config(?:=|$)(.*)", arg) for arg in argv) if m), None)
    if config == "" and "--config" in argv[:-1]:
        config = argv[argv.index("--config") + 1]
    path = (config or "").rsplit(":", 1)[0] if not os.path.exists(config or "") else config
    if path and not os.path.isfile(path):
        raise FileNotFoundError(f"there is no config file {path}; the experiments are files in configs/ of the repository")
    try:
        remaining: list[str] = flags.FLAGS(argv)
    except flags.Error as error:
        text = re.sub(r"flag (--\w+)=None: Flag --\w+ must have a value other than None\.", r"\1 is missing", str(error))
        raise ValueError(f"{', '.join(text.splitlines())}; for example: {example}") from None
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if path and frame.filename.endswith(path)]
        if "has no attribute 'get_config'" in str(error):
            raise ValueError(f"the config file {path} lacks the function get_config, which returns the config") from error
        if isinstance(error, AttributeError) and not frames:
            raise  # of a misspelt key, which the message names
        where = f", line {frames[-1].lineno}" if frames else ""
        raise ValueError(f"the config file {path}{where} cannot be loaded: {type(error).__name__}: {_text(error)}") from error
    if len(remaining) > 1:
        raise ValueError(f"unknown argument {remaining[1]!r}; for example: {example}")
    if not isinstance(flags.FLAGS.config, ml_collections.ConfigDict):
        what = type(flags.FLAGS.config).__name__
        raise ValueError(f"get_config of {path} returns {what}; it has to return a config, changed from the default one")
    return remaining
