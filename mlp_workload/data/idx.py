"""Reads IDX, the file format of MNIST and its relatives.

Format: magic number 0x0000 TT DD (type TT: 08 unsigned byte, 0C big-endian int32; DD dimensions), DD sizes as
big-endian uint32, the values in C order.
"""

import gzip
import hashlib
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from mlp_workload.data.dataset import Dataset, Examples, Labels
from mlp_workload.data.emnist import class_names, is_emnist
from mlp_workload.errors import UserError
from mlp_workload.files import check_fits_memory, expand, open_regular

T = TypeVar("T")

_FILE_NAME = re.compile(
    r"(?:(?P<prefix>[^.].*)-)?(?P<split>train|t10k|test)-"  # macOS puts a hidden ._file beside each
    r"(?:(?P<images>images)[-.]idx3-ubyte|labels[-.]idx(?P<labels>1-ubyte|2-int))(?:\.gz)?"
)
_TYPES = {"u1": 0x08, ">i4": 0x0C}
"""IDX's type numbers by NumPy's names."""
_KINDS = (
    (rb"(\xef\xbb\xbf)?\s*<", "an HTML page, as a failed download leaves"),
    (rb"\x1f\x8b", "another gzip file: unpack the outer one"),
    (rb"PK\x03\x04", "a zip archive: unpack it"),
    (rb"BZh", "a bzip2 file: unpack it"),
    (rb"\xfd7zXZ", "an xz file: unpack it"),
    (rb"version https://git-lfs", "a pointer of Git LFS: git lfs pull fetches the file"),
    (rb"[\t\n\r -~]+$", "text"),
)
"""Kinds of files that are not IDX, by their first bytes."""
_LARGEST_UNPACKED = 2**31
"""Most unpacked bytes of a gzip file, four times EMNIST. 2 MB can unpack to this."""


def read_idx(path: Path, ndim: int, sha256: str | None = None, dtype: str = "u1") -> npt.NDArray[Any]:
    """Returns the array of `ndim` dimensions in an IDX file of type "u1" or ">i4", raw or gzip.

    `sha256` is the expected sum of the whole file after decompression. Memory is allocated for the bytes that exist,
    not for what the header promises. Raises `UserError` if the file is missing or damaged, or if its length, type or
    sum is wrong.
    """
    try:
        with open_regular(path) as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if compressed:
                with gzip.GzipFile(fileobj=raw) as stream:
                    # By zlib's technical notes no stream of n bytes holds more than about 1032 n.
                    most = min(path.stat().st_size * 1032, _LARGEST_UNPACKED)
                    return _read(stream, path, ndim, most, sha256, dtype)
            return _read(raw, path, ndim, path.stat().st_size, sha256, dtype)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({str(error).splitlines()[0]})") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"{path}: too large for the memory") from error


def _read(
    stream: BinaryIO | gzip.GzipFile, path: Path, ndim: int, most: int, sha256: str | None, dtype: str
) -> npt.NDArray[Any]:
    header = stream.read(4 + 4 * ndim)
    magic = struct.pack(">HBB", 0, _TYPES[dtype], ndim)
    if len(header) < 4 + 4 * ndim or not header.startswith(magic):
        start = header + stream.read(64)
        kind = next((f"{kind}; " for pattern, kind in _KINDS if re.match(pattern, start)), "")
        if len(header) < 4 + 4 * ndim:
            raise UserError(f"{path}: {kind}{len(header)} bytes, too short for an IDX header")
        numbers = "unsigned bytes" if dtype == "u1" else "32-bit integers"
        expected = f"expected {magic.hex(' ')} (IDX, {numbers}, {ndim}-d)"
        raise UserError(f"{path}: {kind}starts with {header[:4].hex(' ')}, {expected}")
    shape, itemsize = struct.unpack(f">{ndim}I", header[4:]), np.dtype(dtype).itemsize
    size = math.prod(shape) * itemsize
    sizes = " x ".join(map(str, shape)) + ("" if itemsize == 1 else f" x {itemsize} bytes")
    promise = f"{path}: its header promises {sizes}"
    if size > most:
        limit = f"{most}: unpack it first" if most == _LARGEST_UNPACKED else "the file can hold"
        raise UserError(f"{promise} = {size} bytes, more than {limit}")
    check_fits_memory(size, str(path))
    content = bytearray()
    while len(content) <= size and (chunk := stream.read(min(2**20, size + 1 - len(content)))):
        content += chunk
    if len(content) != size:
        held = f"holds only {len(content)}" if len(content) < size else "holds more"
        raise UserError(f"{promise} = {size} bytes, the file {held}")
    if sha256 is not None and (found := hashlib.sha256(header + content).hexdigest()) != sha256:
        raise UserError(f"{path}: damaged, its content has SHA-256 {found}, expected {sha256}")
    try:
        return np.frombuffer(content, dtype).reshape(shape)
    except ValueError as error:  # no values, but dimensions near 2**32
        raise UserError(f"{promise}, more than an array can have") from error


def load_idx(directory: str) -> Dataset:
    """Loads the four IDX files of a folder, raw or gz. EMNIST's images stay `transposed`, as stored.

    The folder may have the layout of torchvision (`DIR/MNIST/raw/`, `DIR/MNIST` or the `raw` folder) or of Debian's
    packages. As in Kaggle's, each file may also be in a folder of its name. Of several files for one part the first
    readable one is taken. If a folder holds several sets, like EMNIST's, the files' prefix chooses one:
    `idx:EMNIST/raw/emnist-letters`.

    Classes are 0 to the largest training label, named by `PREFIX-mapping.txt` if there is one. The class is the first
    of the eight numbers of a QMNIST label. Raises `UserError` if a part is missing, if there are several sets, or if
    `read_idx` or `Dataset` refuses.
    """
    source = f"idx:{directory}"
    try:
        folder, prefix = expand(Path(directory)), None
        if not folder.is_dir():
            folder, prefix = folder.parent, folder.name
        if not folder.is_dir():
            raise UserError(f"{source}: no such folder")
        root, prefix, files = _find(source, folder, prefix)
    except OSError as error:
        raise UserError(f"{source}: {error.strerror or error}") from error
    notes: list[str] = []
    passed_over: list[str] = []
    train, test = (
        Examples(
            _first_readable(files[split, "images"], lambda path: read_idx(path, 3), passed_over),
            _first_readable(files[split, "labels"], lambda path: _labels(path, notes), passed_over),
        )
        for split in ("train", "test")
    )
    classes = 1 + max(int(examples.labels.max(initial=-1)) for examples in (train, test))
    names = class_names(prefix, classes, root / f"{prefix}-mapping.txt")
    return Dataset(source, train, test, names, is_emnist(prefix), tuple(dict.fromkeys(notes)), tuple(passed_over))


def _find(source: str, folder: Path, wanted: str | None) -> tuple[Path, str, dict[tuple[str, str], list[Path]]]:
    """Returns the folder, prefix and files of the one set in `folder`, its `raw`, or the `raw` of a folder in it.

    Raw files come before gz. Names that are not files, such as dangling links, come last.
    """
    sets: dict[tuple[Path, str], dict[tuple[str, str], list[Path]]] = {}
    for root in (folder, folder / "raw", *sorted(folder.glob("*/raw"))):
        for entry in sorted(root.glob("*idx*")):  # "x" sorts before "x.gz"
            if not _FILE_NAME.fullmatch(entry.name):
                continue
            for path in (*(sorted(entry.glob("*idx*")) if entry.is_dir() else ()), entry):
                if match := _FILE_NAME.fullmatch(path.name):
                    split = "train" if match["split"] == "train" else "test"
                    part = split, "images" if match["images"] else "labels"
                    sets.setdefault((root, match["prefix"] or ""), {}).setdefault(part, []).append(path)
    if wanted is not None:
        sets = {(root, prefix): files for (root, prefix), files in sets.items() if prefix == wanted}
    if not sets:
        raise UserError(f"{source}: no IDX files there (such as train-images-idx3-ubyte, raw or .gz)")
    if len(sets) > 1:
        choices = ", ".join(f"idx:{root / prefix}" for root, prefix in sorted(sets))
        raise UserError(f"{source}: several data sets there; name one: {choices}")
    (((root, prefix), files),) = sets.items()
    missing = {(split, kind) for split in ("train", "test") for kind in ("images", "labels")} - set(files)
    if missing:
        names = ", ".join(f"{split} {kind}" for split, kind in sorted(missing))
        raise UserError(f"{source}: {names} missing; a set is four IDX files")
    return root, prefix, {part: sorted(paths, key=lambda path: not path.is_file()) for part, paths in files.items()}


def _first_readable(paths: Sequence[Path], read: Callable[[Path], T], passed_over: list[str]) -> T:
    """Returns the content of the first readable file of `paths`; adds the errors of others to `passed_over`.

    Raises `UserError` if none can be read.
    """
    errors: list[UserError] = []
    for path in paths:
        try:
            content = read(path)
            passed_over += [f"{error}; {path.name} is read instead" for error in errors]
            return content
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _labels(path: Path, notes: list[str]) -> Labels:
    """Returns labels (n,) int32, from QMNIST's rows (n, 8) the first column."""
    if not re.search(r"idx2-int(\.gz)?$", path.name):
        return read_idx(path, 1).astype(np.int32)
    rows = read_idx(path, 2, dtype=">i4")
    if rows.shape[1] == 0:
        raise UserError(f"{path}: its rows of labels are empty")
    for outside in np.flatnonzero((rows[:, 0] < 0) | (rows[:, 0] > 255)):  # as in files of unsigned bytes
        raise UserError(f"{path}: label {outside} is {rows[outside, 0]}, expected 0 to 255")
    notes.append(f"the labels are column 0 of idx2-int files of {rows.shape[1]} columns")
    return rows[:, 0].astype(np.int32)
