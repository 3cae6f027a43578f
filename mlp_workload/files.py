"""Paths as users type them, files that may come from elsewhere, and files that are there whole or not at all."""

import errno
import io
import os
import re
import shlex
import stat
import string
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from mlp_workload.cgroup import ROOT, memory_limit
from mlp_workload.errors import UserError

_PLAIN = set(string.printable[:95]) - {"'", "\\"}
"""Characters that stand for themselves within $'...'."""
_KINDS: Mapping[int, str] = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


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


def open_regular(path: Path, mode: str = "rb", buffering: int = -1) -> io.BufferedRandom:
    """Opens a file of any origin, in a binary mode; nothing that a program could wait on for ever.

    Raises `OSError`, which tells what else it is (a named pipe, a device, a socket, a folder), or why it can't be
    opened; `FileNotFoundError` only if nothing has this name, not for a link that leads nowhere.
    """
    return cast(io.BufferedRandom, open(path, mode, buffering, opener=_regular))


def _regular(path: str, flags: int) -> int:
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        if os.path.islink(path):
            raise OSError(errno.EINVAL, "a link that leads nowhere", path) from None
        raise
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error), path) from None
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, f"not a file but {_KINDS.get(kind, 'something else')}", path)
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_at_most(path: Path, size: int) -> bytes:
    """The content of a file that `open_regular` opens. Raises `UserError`, also if it has more than `size` bytes."""
    try:
        with open_regular(path) as file:
            content = file.read(size + 1)
    except OSError as error:
        raise UserError(f"{path}: {reason(error)}") from error
    if len(content) > size:
        raise UserError(f"{path}: larger than {f'{size // 2**20} MiB' if size >= 2**20 else f'{size // 2**10} KiB'}")
    return content


def reason(error: OSError) -> str:
    """The system's words, without the path."""
    return "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)


def check_fits_memory(size: int, source: str, system: Path = ROOT) -> None:
    """Raises `UserError` if `size` bytes and a copy of them are more than the memory of this machine or container."""
    limits = [limit[0]] if (limit := memory_limit(system)) else []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if limits and 2 * size > (memory := min(limits)):
        raise UserError(f"{source}: {size / 2**30:,.1f} GiB, too large for a memory of {memory / 2**30:,.1f} GiB")


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
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # no pipe or link that somebody laid there
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
