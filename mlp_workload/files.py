"""Paths as users type them, and files that are there whole or not at all."""

import errno
import os
import re
from pathlib import Path

from mlp_workload.errors import UserError


def expand(path: Path) -> Path:
    """`path` with the home folder for a leading ~. Raises `UserError` where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}") from error


def check_is_file(path: Path) -> None:
    """Raises `UserError` where there is no file to read."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise UserError(f"{path}: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """So that the names in it outlast a power cut; where the system can't, as on Windows, it does nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_half_written(folder: Path) -> None:
    """What `write_atomically` left in `folder` where its process was killed."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name) and path.is_file():
            path.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` beside `path`, syncs it, and renames it into place. Raises `OSError` with `path` untouched."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
