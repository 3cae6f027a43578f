"""Checks Python, memory, environment variables, the folder of runs and the shipped files."""

import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlp_workload.data import shipped
from mlp_workload.data.idx import read_idx
from mlp_workload.doctor.finding import Finding
from mlp_workload.environment.cgroup import ROOT, cpu_quota, memory_limit
from mlp_workload.environment.description import runnable_cores, under_quota
from mlp_workload.environment.variables import set_variables
from mlp_workload.errors import UserError
from mlp_workload.files import shell_quoted

LITTLE = 10**8
"""Free bytes of a disk below which there is a note; about ten run folders take them."""
_CHECKOUT = Path(__file__).parents[2]
"""Root of the git repository, if this is one."""


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


def refusal(folder: Path) -> str | None:
    """Returns why `folder` can't be written to; None if it can. Leaves no file and creates no folder."""
    try:
        with tempfile.TemporaryFile(dir=_nearest(folder)) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _nearest(folder: Path) -> Path:
    """Returns `folder`, or the nearest existing one above it. Raises `OSError` if that is not a folder."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    return folder


def runs() -> Finding:
    folder = Path("runs")
    if reason := refusal(folder):
        return Finding("wrong", "run folders", f"nothing can be written to {folder.absolute()} ({reason})",
                       "start in one of your own folders, or name one with --run-dir")  # fmt: skip
    free = shutil.disk_usage(_nearest(folder)).free
    seen = f"{folder.absolute()} can be written to, {free / 1e9:,.1f} GB free"
    if free < LITTLE:
        return Finding("note", "run folders", seen, "free some space there")
    return Finding("ok", "run folders", seen)


def mnist(folder: Path = shipped.FOLDER) -> Iterator[Finding]:
    """Yields a finding for each file that differs from the published one, or one for all if none does."""
    wrong: list[Finding] = []
    for name, digest in shipped.SHA256.items():
        try:
            read_idx(folder / f"{name}.gz", 3 if "images" in name else 1, digest)
        except UserError as error:
            wrong.append(Finding("wrong", "MNIST", str(error), _mnist_fix(folder)))
    yield from wrong or [Finding("ok", "MNIST", "four files with the published SHA-256 sums")]


def _mnist_fix(folder: Path) -> str:
    if (_CHECKOUT / ".git").exists() and folder.is_relative_to(_CHECKOUT):
        return f"git -C {shell_quoted(_CHECKOUT)} checkout {shell_quoted(folder.relative_to(_CHECKOUT))}"
    return "pip install --force-reinstall --no-deps . in the project's folder"
