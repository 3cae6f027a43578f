"""Fresh processes to be timed: the same cores and threads for all, no setting of the user's for one library alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlp_workload.config import Config

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = {f"{library}_NUM_THREADS": str(CORES) for library in ("OMP", "MKL", "OPENBLAS")}
_LIBRARIES_OWN = ("OMP_", "MKL_", "KMP_", "OPENBLAS_", "XLA_", "JAX_", "TORCH")
_TIME_LIMIT = 1800
"""Seconds for one process."""


class ProcessFailed(Exception):
    """With its last line on standard error."""


def run(
    module: str, *arguments: str, variables: Mapping[str, str] | None = None, folder: Path | None = None, text: str = ""
) -> str:
    """`python -m module arguments`, with `text` on standard input, in `folder`; its standard output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LIBRARIES_OWN)}
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = kept | {"PYTHONPATH": paths} | THREADS | dict(variables or {})
    command = [sys.executable, "-m", module, *arguments]
    try:
        result = subprocess.run(
            command, env=environment, cwd=folder, input=text, capture_output=True, text=True, timeout=_TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        raise ProcessFailed(f"not done within {_TIME_LIMIT} s") from None
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"ended with status {result.returncode}"]
        raise ProcessFailed(lines[-1])
    return result.stdout


def ask(rung: str, config: Config, **options: Any) -> dict[str, Any]:
    """What `mlp_compare.bench_worker` says of a rung. Nothing compiled is kept from one process to the next."""
    request = {"rung": rung, "config": json.loads(config.to_json()), "cores": CORES, "spawned_at": time.time()}
    text = json.dumps(request | options)
    nothing_kept = {"JAX_COMPILATION_CACHE_DIR": "", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    content: dict[str, Any] = json.loads(run("mlp_compare.bench_worker", variables=nothing_kept, text=text))
    return content
