"""Checks Python, memory, and the environment variables of the frameworks."""

import platform
import sys
from pathlib import Path

from mlp_workload.doctor.finding import Finding
from mlp_workload.environment.cgroup import ROOT, cpu_quota, memory_limit
from mlp_workload.environment.description import runnable_cores, under_quota
from mlp_workload.environment.variables import set_variables


def python() -> Finding:
    cores = f"{runnable_cores()} cores{under_quota(cpu_quota())}"
    seen = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {cores}, {sys.prefix}"
    return Finding("ok", "Python", seen)


def variables() -> Finding:
    """Lists the set variables that change how the frameworks start or compute."""
    are_set = set_variables("numbers", "memory", "speed", "devices", "paths")
    listed = " ".join(f"{name}={value}" for name, value in are_set.items())
    return Finding("ok", "environment", listed or "no variable is set that affects a framework")


def memory(system: Path = ROOT) -> Finding:
    """Checks the free memory, within a container's limit if it has one."""
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return Finding("ok", "memory", "this system does not say how much is free")
    within, fix = "", "close other programs"
    if (limit := memory_limit(system)) is not None:
        free, within = min(free, limit[1]), f" under a cgroup's limit of {limit[0] / 1e9:,.1f} GB"
        fix += ", or raise the limit"
    seen = f"{free / 1e9:,.1f} GB free{within}"
    is_little = free < 10**9  # a run takes about half of it
    return Finding("note", "memory", seen, fix) if is_little else Finding("ok", "memory", seen)
