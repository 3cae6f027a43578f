"""Paths as users type them, and files that are there whole or not at all."""

import errno
import os
import re
import shlex
import string
import sys
from pathlib import Path

from mlp_workload.errors import UserError

_PLAIN = set(string.printable[:95]) - {"'", "\\"}
"""Characters that stand for themselves within $'...'."""


def expand(path: Path) -> Path:
    """`path` with the home folder for a leading ~. Raises `UserError` where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}") from error


def shell_quoted(path: Path) -> str:
    """`path` as an argument of a command that can be pasted into a shell, and means there what it means here."""
    text = str(path)
    if text.startswith(("-", "~")):  # else read as a flag, or as a home folder by `expand`
        text = os.path.abspath(text)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(chr(b) if chr(b) in _PLAIN else f"\\x{b:02x}" for b in os.fsencode(text)) + "'"


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


def is_half_written(path: Path) -> bool:
    """Whether `write_atomically` left it, because its process was killed."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None and path.is_file()


def remove_half_written(folder: Path) -> None:
    """What `write_atomically` left in `folder` where its process was killed."""
    for path in filter(is_half_written, folder.glob(".*.tmp")):
        path.unlink()


def lock_file(descriptor: int) -> None:
    """Locks an open file until it is closed. Raises `BlockingIOError` if another process has it locked, and another
    `OSError` if the file system has no locks."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
