"""What a run's numbers depend on besides its configuration."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

_VARIABLES = (
    "XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
    "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION", "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip


def describe_environment(packages: Sequence[str], gpu: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Versions of Python and of `packages`, the processor and how much of it is ours, and the source's commit.

    `gpu` is what the framework says of the libraries that it computes with on one.
    """
    return {
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "system": platform.platform(),
        "processor": _processor(),
        "usable_cores": usable_cores(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "commit": _commit(),
        **({"gpu": {"driver": nvidia_driver(), **gpu}} if gpu else {}),
    }


def usable_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def nvidia_driver(kernel: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of Linux's driver, which `kernel` has; None where there is none."""
    try:
        text = kernel.read_text()
    except OSError:
        return None
    found = re.search(r"\s(\d+\.\d[\d.]*)\s", text)
    return found[1] if found else None


def _processor() -> str:
    """The processor's name, which Linux keeps in a file and others answer through `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


@cache
def _commit() -> str | None:
    """The commit of the checkout that this package lies in, "-dirty" behind it where files were changed; else None."""
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
