"""IDX, the format of MNIST and its relatives: a big-endian header of sizes, then one byte a value.

Format: magic number 0x0000 08 DD (unsigned byte, DD dimensions), DD sizes as big-endian uint32, the values in C order.
"""

import gzip
import hashlib
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mlp_workload.data.dataset import Dataset, Examples
from mlp_workload.errors import UserError
from mlp_workload.files import check_fits_memory, expand, open_regular

_FILE_NAME = re.compile(
    r"(?:(?P<prefix>.+)-)?(?P<split>train|t10k|test)-(?P<kind>images|labels)[-.]idx(?P<ndim>[13])-ubyte(?P<gz>\.gz)?"
)
_UNSIGNED_BYTE = 0x08
_DEFLATE_LARGEST_RATIO = 1032  # zlib's technical notes: no stream of n bytes holds more than about 1032 n
_CHUNK = 1 << 20
_LARGEST_UNPACKED = 2**31
"""Bytes, four times EMNIST, that a gzip file may hold: one of 2 MB that says so in its header unpacks to as many."""


def read_idx(path: Path, ndim: int, sha256: str | None = None) -> npt.NDArray[np.uint8]:
    """The array of `ndim` dimensions in an IDX file of unsigned bytes, raw or gzip by its first bytes.

    `sha256`, if given, is that of the whole file after decompression. Memory follows the bytes that are there, never
    the header's word alone.

    Raises `UserError` where the file is missing, damaged, shorter or longer than its header says, of another type, or
    of another sum.
    """
    try:
        with open_regular(path) as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if compressed:
                with gzip.GzipFile(fileobj=raw) as stream:
                    most = min(path.stat().st_size * _DEFLATE_LARGEST_RATIO, _LARGEST_UNPACKED)
                    return _read(stream, path, ndim, most, sha256)
            return _read(raw, path, ndim, path.stat().st_size, sha256)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({_first_line(error)})") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"{path}: too large for the memory") from error


def _read(
    stream: BinaryIO | gzip.GzipFile, path: Path, ndim: int, most: int, sha256: str | None
) -> npt.NDArray[np.uint8]:
    header = stream.read(4 + 4 * ndim)
    if len(header) < 4 + 4 * ndim:
        raise UserError(f"{path}: {len(header)} bytes, too short for an IDX header")
    zero, kind, dimensions, *shape = struct.unpack(f">HBB{ndim}I", header)
    if (zero, kind, dimensions) != (0, _UNSIGNED_BYTE, ndim):
        raise UserError(
            f"{path}: starts with {header[:4].hex(' ')}, expected 00 00 08 {ndim:02x} (IDX, unsigned bytes, {ndim}-d)"
        )
    expected = math.prod(shape)
    if expected > most:
        limit = f"{most}: unpack it first" if most == _LARGEST_UNPACKED else "the file can hold"
        raise UserError(f"{path}: its header promises {_by(shape)} = {expected} bytes, more than {limit}")
    check_fits_memory(expected, str(path))
    content = bytearray()
    while len(content) <= expected and (chunk := stream.read(min(_CHUNK, expected + 1 - len(content)))):
        content += chunk
    if len(content) != expected:
        held = f"holds only {len(content)}" if len(content) < expected else "holds more"
        raise UserError(f"{path}: its header promises {_by(shape)} = {expected} bytes, the file {held}")
    if sha256 is not None and (found := hashlib.sha256(header + content).hexdigest()) != sha256:
        raise UserError(f"{path}: damaged, its content has SHA-256 {found}, expected {sha256}")
    try:
        return np.frombuffer(content, np.uint8).reshape(shape)
    except ValueError as error:  # nothing, in too many dimensions of 2**32
        raise UserError(f"{path}: its header promises {_by(shape)}, more than an array can have") from error


def load_idx(directory: str) -> Dataset:
    """The four IDX files of a folder.

    Knows the layouts of torchvision (`DIR/MNIST/raw/`, `DIR/MNIST`, the `raw` folder itself) and of Debian's packages,
    raw or gz. Where one folder holds several sets, as EMNIST's does, a last part that is no folder chooses by the
    files' prefix: `idx:EMNIST/raw/emnist-letters`. Classes are 0 .. the largest training label.

    Raises `UserError` where a file is missing, there are several sets, or `read_idx` or `Dataset` refuses.
    """
    source = f"idx:{directory}"
    try:
        folder, prefix = expand(Path(directory)), None
        if not folder.is_dir():
            folder, prefix = folder.parent, folder.name
        if not folder.is_dir():
            raise UserError(f"{source}: no such folder")
        files = _find(source, folder, prefix)
    except OSError as error:
        raise UserError(f"{source}: {error.strerror or error}") from error
    train, test = (
        Examples(read_idx(files[split, "images"], 3), read_idx(files[split, "labels"], 1).astype(np.int32))
        for split in ("train", "test")
    )
    classes = 1 + int(train.labels.max(initial=-1))
    return Dataset(source, train, test, tuple(map(str, range(classes))))


def _find(source: str, folder: Path, prefix: str | None) -> dict[tuple[str, str], Path]:
    """The path of each (split, kind) of the one set in `folder`, its `raw` or one folder's `raw`; raw before gz."""
    sets: dict[str, dict[tuple[str, str], Path]] = {}
    for place in (folder, folder / "raw", *sorted(folder.glob("*/raw"))):
        for path in sorted(place.glob("*ubyte*")):  # "x" sorts before "x.gz"
            match = _FILE_NAME.fullmatch(path.name)
            if match and (match["kind"] == "images") == (match["ndim"] == "3"):
                split = "train" if match["split"] == "train" else "test"
                name = str(path.parent.relative_to(folder) / (match["prefix"] or ""))
                sets.setdefault(name, {}).setdefault((split, match["kind"]), path)
    if prefix is not None:
        sets = {name: files for name, files in sets.items() if Path(name).name == prefix}
    if not sets:
        raise UserError(f"{source}: no IDX files there (such as train-images-idx3-ubyte, raw or .gz)")
    if len(sets) > 1:
        choices = ", ".join(f"idx:{folder / name}" for name in sorted(sets))
        raise UserError(f"{source}: several data sets there; name one: {choices}")
    (files,) = sets.values()
    missing = {(split, kind) for split in ("train", "test") for kind in ("images", "labels")} - set(files)
    if missing:
        names = ", ".join(f"{split} {kind}" for split, kind in sorted(missing))
        raise UserError(f"{source}: {names} missing; a set is four IDX files")
    return files


def _by(shape: list[int]) -> str:
    return " x ".join(map(str, shape))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
