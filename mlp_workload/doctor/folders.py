"""Whether files can be written where they would go, and room for them."""

import shutil
import tempfile
from pathlib import Path

from mlp_workload.doctor.finding import Finding

LITTLE = 10**8
"""Bytes on a disk, which hold the folders of some ten runs."""


def refusal(folder: Path) -> str | None:
    """Why nothing can be written there, where that is so; nothing is left behind, and no folder made."""
    try:
        with tempfile.TemporaryFile(dir=_nearest(folder)) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _nearest(folder: Path) -> Path:
    """The folder itself, or the one that is there of those above it. Raises `OSError` where it is none."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    return folder


def runs() -> Finding:
    """Of the folder that run folders are made in."""
    folder = Path("runs")
    if reason := refusal(folder):
        return Finding("wrong", "run folders", f"nothing can be written to {folder.absolute()} ({reason})",
                       "begin in a folder of yours, or name one by --run-dir")  # fmt: skip
    free = shutil.disk_usage(_nearest(folder)).free
    seen = f"{folder.absolute()} can be written to, {free / 1e9:,.1f} GB free"
    if free < LITTLE:
        return Finding("note", "run folders", seen, "free some space there")
    return Finding("ok", "run folders", seen)
