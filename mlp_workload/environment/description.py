"""Description of the machine, its cores and the software, recorded with every run."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlp_workload.environment.cgroup import ROOT, cpu_quota
from mlp_workload.environment.variables import THREAD_COUNTS, effect, set_variables

VARIABLES_OF_0_1 = (
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "XLA_FLAGS", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE",
)  # fmt: skip
"""Variables that version 0.1 recorded. It recorded no threads."""


def describe_environment(
    packages: Sequence[str], gpu: Mapping[str, str] | None = None, threads: int | None = None
) -> dict[str, Any]:
    """Returns versions of Python and of `packages`, the processor, usable cores, variables and the source's commit.

    `gpu` are the framework's versions of GPU libraries; `threads` is the number of CPU threads that share a product.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    except OSError:
        processor = platform.processor()
    return {
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "system": platform.platform(),
        "processor": processor or platform.machine(),
        "usable_cores": usable_cores(),
        "cpu_quota": cpu_quota(),
        "threads": threads,
        "variables": set_variables("numbers", "memory", "speed", "devices"),
        "commit": commit(Path(__file__).parent.parent),
        **({"gpu": {"driver": nvidia_driver(), **gpu}} if gpu else {}),
    }


def numeric_settings(environment: object) -> dict[str, Any]:
    """Returns the recorded settings that may change a run's numbers: CPU threads, if known, and variables."""
    recorded = environment if isinstance(environment, Mapping) else {}
    variables, threads = recorded.get("variables"), recorded.get("threads")
    named = variables if isinstance(variables, Mapping) else {}
    numeric = {name: value for name, value in named.items() if effect(name) == "numbers"}
    if threads is None:
        return numeric
    return {"threads": threads} | {name: value for name, value in numeric.items() if name not in THREAD_COUNTS}


def usable_cores(system: Path = ROOT) -> int:
    """Returns the number of cores that this process may use, under its affinity and CPU quota."""
    return quota_cores(system) or runnable_cores()


def quota_cores(system: Path = ROOT) -> int | None:
    """Returns the whole cores of a CPU quota, at least 1; None without a quota below the number of cores.

    The quota is rounded down. If the threads of a product use it up, the kernel pauses all of them. Waiting threads use
    it up too.
    """
    quota = cpu_quota(system)
    return None if quota is None or quota >= runnable_cores() else max(1, int(quota))


def under_quota(quota: float | None) -> str:
    """Returns the text after a number of cores that names the quota."""
    return "" if quota is None else f" under a CPU quota of {quota:g}"


def runnable_cores() -> int:
    """Returns the number of cores that the scheduler may run this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def nvidia_driver(kernel: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Returns the version of NVIDIA's driver on Linux, from the file `kernel`; None if there is none."""
    try:
        text = kernel.read_text()
    except OSError:
        return None
    match = re.search(r"\s(\d+\.\d[\d.]*)\s", text)
    return match[1] if match else None


@cache
def commit(checkout: Path) -> str | None:
    """Returns the commit of the git repository `checkout`, with "-dirty" if files were changed; None without one."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    # Hooks of another repository set GIT_DIR, GIT_INDEX_FILE and others.
    kept = {name: value for name, value in os.environ.items() if not re.match("GIT_(?!CONFIG_)", name)}
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=kept)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()
