"""Checks that folders can be written to and have free space."""

import shutil
import tempfile
from pathlib import Path

from mlp_workload.doctor.finding import Finding

LITTLE = 10**8
"""Free bytes of a disk below which there is a note; about ten run folders take them."""


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
