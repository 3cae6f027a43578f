"""IDX files, raw, gzip, and as the four files of a data set."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fuzz.target import Target
from mlp_workload.data.idx import load_idx, read_idx

_RAW, _GZIP, _SET, _ROWS = range(4)
"""A content's first byte, modulo 4: a file as it is; a file to be compressed, so that damage gets past gzip's own sum;
images, behind their length in two bytes, and labels; the same with QMNIST's rows of labels."""


def read(content: bytes, folder: Path) -> None:
    if not content:
        return
    way, content = content[0] % 4, content[1:]
    if way in (_SET, _ROWS):
        _read_set(content, folder, "idx1-ubyte" if way == _SET else "idx2-int")
        return
    path = folder / "images"
    path.write_bytes(gzip.compress(content, 1, mtime=0) if way == _GZIP else content)
    array = read_idx(path, 1 if content[3:4] == b"\1" else 3)
    if way == _GZIP:
        assert array.tobytes() == content[4 + 4 * array.ndim :]


def _read_set(content: bytes, folder: Path, labels_format: str) -> None:
    size = int.from_bytes(content[:2])
    images, labels = content[2 : 2 + size], content[2 + size :]
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{split}-labels-{labels_format}").write_bytes(labels)
    dataset = load_idx(str(folder))
    assert len(dataset.train.images) == len(dataset.test.labels) > 0
    assert dataset.train.labels.max() < dataset.classes


def idx(array: npt.NDArray[np.integer[Any]]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def _seeds() -> tuple[bytes, ...]:
    images, labels = idx(np.arange(60).reshape(5, 4, 3)), idx(np.arange(5))
    rows = struct.pack(">HBB2I", 0, 12, 2, 5, 2) + np.arange(10, dtype=">i4").tobytes()
    return (
        bytes([_RAW]) + images,
        bytes([_RAW]) + labels,
        bytes([_RAW]) + gzip.compress(images, mtime=0),
        bytes([_GZIP]) + images,
        bytes([_SET]) + len(images).to_bytes(2) + images + labels,
        bytes([_ROWS]) + len(images).to_bytes(2) + images + rows,
    )


TARGET = Target(read, _seeds())
