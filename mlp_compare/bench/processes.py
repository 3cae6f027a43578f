"""Fresh processes to time, all with the same cores and threads, and without the user's settings for one library."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlp_workload.config import Config
from mlp_workload.environment.description import quota_cores, usable_cores
from mlp_workload.environment.variables import effect
from mlp_workload.errors import UserError, why_ended

CORES = usable_cores()
THREADS = {f"{library}_NUM_THREADS": str(CORES) for library in ("OMP", "MKL", "OPENBLAS")}
if quota_cores():  # without a quota JAX takes as many by itself
    THREADS["NPROC"] = str(CORES)
_TIME_LIMIT = 1800
"""Time limit of one process in seconds."""


class ProcessFailed(UserError):
    """A process failed; the message has its command and its standard error."""


def environment() -> dict[str, str]:
    """Returns the environment variables for a process that is timed or runs beside one."""
    kept = {key: value for key, value in os.environ.items() if effect(key) in (None, "devices", "paths")}
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": paths} | THREADS


def run(name: str, module: str, *arguments: str, variables: Mapping[str, str] | None = None, text: str = "") -> str:
    """Runs `python -m module arguments` with `text` on standard input, and returns its standard output.

    Raises `ProcessFailed`, with `name` in the message, if the process fails or takes too long.
    """
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment() | dict(variables or {}), stdin=subprocess.PIPE, stdout=out, stderr=errors,
            text=True, start_new_session=True,
        )  # fmt: skip
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(text)
            status = process.wait(_TIME_LIMIT)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(f"{name}: not done within {_TIME_LIMIT} s") from None
        finally:
            if hasattr(os, "killpg"):  # with all that it started
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
        for file in (out, errors):
            file.seek(0)
        if status < 0:
            ended = signal.Signals(-status).name
            raise ProcessFailed(f"{name}: ended by {ended}; SIGKILL is also how the system frees memory")
        if status:
            raise ProcessFailed(f"{name}: {why_ended(status, errors.read())}")
        return out.read()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def ask(variant: str, config: Config, **options: Any) -> dict[str, Any]:
    """Returns the answer of `mlp_compare.bench.timing_worker` about a variant, with all caches of programs off."""
    variables = {
        "JAX_COMPILATION_CACHE_DIR": "",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_ENABLE_X64": str(int(config.dtype == "float64")),
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    } | ({"CUDA_VISIBLE_DEVICES": ""} if config.device == "cpu" else {})
    request = {"variant": variant, "config": json.loads(config.to_json()), "spawned_at": time.monotonic()} | options
    text = json.dumps(request)
    return dict(json.loads(run(variant, "mlp_compare.bench.timing_worker", variables=variables, text=text)))
