"""Paths as users type them, files that may come from elsewhere, and files that are there whole or not at all."""

import contextlib
import errno
import io
import json
import math
import os
import re
import shlex
import stat
import string
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from mlp_workload.environment.cgroup import ROOT, memory_limit
from mlp_workload.errors import UserError, refusal

_PLAIN = set(string.printable[:95]) - {"'", "\\"}
"""Characters that stand for themselves within $'...'."""
_KINDS: Mapping[int, str] = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

LARGEST_JSON = 2**26
"""Bytes; a benchmark's results take a few hundred kilobytes."""


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


def write_json(path: Path, content: Any) -> None:
    """Writes `content` for people and programs, whole or not at all. Raises `UserError` where it can't."""
    with clear_write_errors(path):
        write_atomically(path, (to_json(content, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """What `write_json`, or another program, wrote. Raises `UserError` where it can't be read or is no JSON."""
    try:
        return json.loads(read_at_most(path, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {refusal(error)}") from error


@contextlib.contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, a missing permission and their like into a `UserError` that names what was being written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def to_json(value: Any, indent: int | None = None) -> str:
    """As `json.dumps`, but numbers that JSON lacks (nan and the infinities) become null."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value


@contextlib.contextmanager
def new_file(flag: str, path: Path | None) -> Iterator[Path | None]:
    """Claims `path`, expanded, before any work, so that nothing is overwritten; leaves none where the work fails."""
    if path is None:
        yield None
        return
    path = expand(path)
    try:
        with clear_write_errors(path):
            path.open("x").close()
    except UserError as error:
        if isinstance(error.__cause__, FileExistsError):
            raise UserError(f"{flag} {path} exists; name a new file") from None
        raise
    try:
        yield path
    except BaseException:
        if path.stat().st_size == 0:
            path.unlink()
        raise


def empty_folder(flag: str, path: Path | None) -> Path | None:
    """`path`, expanded: a folder that is empty or yet to be made. Raises `UserError` where there is something."""
    if path is None:
        return None
    path = expand(path)
    with clear_write_errors(path):
        if path.exists() and not path.is_dir():
            raise UserError(f"{flag} {path} is not a folder")
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{flag} {path} is not empty; name a new or empty folder")
    return path
