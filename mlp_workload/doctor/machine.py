"""Python, memory and the variables that steer the frameworks."""

import os
import platform
import sys
from pathlib import Path

from mlp_workload.doctor.finding import Finding
from mlp_workload.environment import usable_cores

_LITTLE = 10**9
"""Bytes of memory; a run takes about half of it."""
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "JAX_ENABLE_X64", "JAX_PLATFORMS", "LD_LIBRARY_PATH", "LD_PRELOAD", "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH", "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_ALLOCATOR", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE",
)  # fmt: skip


def python() -> Finding:
    cores = usable_cores()
    seen = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {cores} cores, {sys.prefix}"
    return Finding("ok", "Python", seen)


def variables() -> Finding:
    """Those that are set of what changes how the frameworks begin or compute."""
    are_set = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    return Finding("ok", "environment", " ".join(are_set) or "no variable is set that steers a framework")


def memory(system: Path = Path("/")) -> Finding:
    """What is free of it, within the limit that a container may have."""
    free = _free(system)
    if free is None:
        return Finding("ok", "memory", "this system does not say how much is free")
    seen = f"{free / 1e9:,.1f} GB free"
    return Finding("note", "memory", seen, "close other programs") if free < _LITTLE else Finding("ok", "memory", seen)


def _free(system: Path) -> int | None:
    """Bytes, from the files that Linux has below `system`."""
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    group = system / "sys/fs/cgroup"
    try:
        limit, used, parts = ((group / f"memory.{name}").read_text() for name in ("max", "current", "stat"))
    except OSError:
        return free
    if limit.strip() == "max":
        return free
    cache = int(dict(line.split() for line in parts.splitlines()).get("inactive_file", 0))
    return min(free, int(limit) - int(used) + cache)
