"""Paths from users, files of any origin, and atomic writes."""

import contextlib
import errno
import io
import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from mlp_workload.environment.cgroup import ROOT, memory_limit
from mlp_workload.errors import UserError, refusal

Shapes = Mapping[str, tuple[int, ...]]
_KINDS: Mapping[int, str] = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

LARGEST_JSON = 2**26
"""Most bytes of a JSON file; a benchmark's results take a few hundred kilobytes."""


def expand(path: Path) -> Path:
    """Returns `path` with a leading ~ replaced by the home folder. Raises `UserError` if there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}") from error


def shell_quoted(path: Path) -> str:
    text = str(path)
    if text.startswith(("-", "~")):  # else it would be a flag, or a home folder
        text = os.path.abspath(text)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + re.sub(rb"[^ -&(-\[\]-~]", lambda m: b"\\x%02x" % m[0][0], os.fsencode(text)).decode() + "'"


def open_regular(path: Path, mode: str = "rb", buffering: int = -1) -> io.BufferedRandom:
    """Opens a regular file in a binary mode. It refuses anything that a program could wait on for ever.

    Raises `OSError` if it can't be opened, or is a named pipe, a device, a socket, a folder or a dangling link.
    `FileNotFoundError` means that nothing has this name.
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
    """Returns the content of a regular file. Raises `UserError` if it can't be read or has more than `size` bytes."""
    try:
        with open_regular(path) as file:
            content = file.read(size + 1)
    except OSError as error:
        raise UserError(f"{path}: {reason(error)}") from error
    if len(content) > size:
        raise UserError(f"{path}: larger than {f'{size // 2**20} MiB' if size >= 2**20 else f'{size // 2**10} KiB'}")
    return content


def reason(error: OSError) -> str:
    """Returns the system's message, without the path."""
    return "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)


def check_fits_memory(size: int, source: str, system: Path = ROOT) -> None:
    """Raises `UserError` if twice `size` bytes exceed the memory of this machine or container."""
    limits = [limit[0]] if (limit := memory_limit(system)) else []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    if limits and 2 * size > (memory := min(limits)):
        raise UserError(f"{source}: {size / 2**30:,.1f} GiB, too large for a memory of {memory / 2**30:,.1f} GiB")


def sync_folder(folder: Path) -> None:
    """Syncs a folder, so that its entries survive a power cut. Does nothing on Windows, which lacks this."""
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
    """Returns whether `path` is a temporary file that `write_atomically` left when its process was killed."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None and path.is_file()


def remove_half_written(folder: Path) -> None:
    """Removes the temporary files that `write_atomically` left in `folder` when its process was killed."""
    for path in filter(is_half_written, folder.glob(".*.tmp")):
        path.unlink()


def lock_file(descriptor: int) -> None:
    """Locks an open file until it is closed.

    Raises `BlockingIOError` if another process holds the lock, and another `OSError` if the file system has no locks.
    """
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
    """Writes `content` to a temporary file, syncs it and renames it to `path`.

    Raises `UserError` if it can't; `path` is untouched then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with clear_write_errors(path):
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # not through a pipe or link that somebody put there
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, atomically. Raises `UserError` if it can't."""
    write_atomically(path, (to_json(content, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file. Raises `UserError` if it can't be read or is not JSON."""
    try:
        return json.loads(read_at_most(path, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {refusal(error)}") from error


@contextlib.contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turns errors such as a full disk or a missing permission into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def to_json(value: Any, indent: int | None = None) -> str:
    """Returns `value` as JSON. Numbers that JSON lacks (nan and infinities) become null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
    return json.dumps(finite, allow_nan=False, indent=indent)


@contextlib.contextmanager
def new_file(flag: str, path: Path | None) -> Iterator[Path | None]:
    """Creates the file `path` and yields it, expanded. If the work inside fails, an empty file is removed again.

    Raises `UserError` if the file exists or can't be created.
    """
    if path is None:
        yield None
        return
    path = expand(path)
    with clear_write_errors(path):
        try:
            path.open("x").close()
        except FileExistsError:
            raise UserError(f"{flag} {path} exists; name a new file") from None
    try:
        yield path
    except BaseException:
        if path.stat().st_size == 0:
            path.unlink()
        raise


def empty_folder(flag: str, path: Path | None) -> Path | None:
    """Returns `path`, expanded. Raises `UserError` if it is neither an empty folder nor a new name."""
    if path is None:
        return None
    path = expand(path)
    with clear_write_errors(path):
        if path.exists() and not path.is_dir():
            raise UserError(f"{flag} {path} is not a folder")
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{flag} {path} is not empty; name a new or empty folder")
    return path


_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
"""NumPy's types by the format's names; the format has others, such as BF16 and F8_E4M3."""


def read_safetensors(
    path: Path, kind: str, check: Callable[[Shapes], None] = lambda shapes: None
) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, str]]:
    """Returns the tensors by name, and the metadata. Calls `check` with the shapes before any tensor is read.

    Raises `UserError`, naming the file, if it is not a readable `kind`. The error's cause is an `OSError` or
    `MemoryError` if the content could not be read.
    """
    try:
        with open_regular(path) as file:
            with safe_open(path, framework="numpy") as checked:  # the header and the size of the file
                metadata = checked.metadata() or {}
            start = 8 + int.from_bytes(file.read(8), "little")
            about = json.loads(file.read(start - 8))
            about.pop("__metadata__", None)
            check({name: tuple(tensor["shape"]) for name, tensor in about.items()})
            check_fits_memory(path.stat().st_size, str(path))
            tensors = {}
            for name, tensor in about.items():  # not by mmap: an I/O error there kills the process
                if tensor["dtype"] not in _TYPES:
                    raise UserError(f"{path}: {name} is {tensor['dtype']}, which NumPy lacks: save it in float32")
                tensors[name] = np.empty(tensor["shape"], _TYPES[tensor["dtype"]])
                file.seek(start + tensor["data_offsets"][0])
                if file.readinto(tensors[name].reshape(-1).view(np.uint8).data) < tensors[name].nbytes:
                    raise UserError(f"{path}: it was cut short while it was read")
            return tensors, metadata
    # ValueError: a shape that NumPy lacks, such as of 70 dimensions.
    except (SafetensorError, TypeError, ValueError) as error:
        hint = "; convert a .pt first (docs/exchange.md)" if path.suffix in (".pt", ".pth") else ""
        raise UserError(f"{path}: not a readable {kind} ({error}){hint}") from error
    except MemoryError as error:
        raise UserError(f"{path}: too large for the memory") from error
    except OSError as error:
        raise UserError(f"{path}: {reason(error)}") from error
