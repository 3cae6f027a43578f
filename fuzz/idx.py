"""IDX files, raw, gzip, and as the four files of a data set."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fuzz.target import Target
from mlp_workload.data.idx import load_idx, read_idx

_RAW, _GZIP, _SET = range(3)
"""A content's first byte, modulo 3: a file as it is; a file to be compressed, so that damage gets past gzip's own sum;
images, behind their length in two bytes, and labels."""


def read(content: bytes, folder: Path) -> None:
    if not content:
        return
    way, content = content[0] % 3, content[1:]
    if way == _SET:
        _read_set(content, folder)
        return
    path = folder / "images"
    path.write_bytes(gzip.compress(content, 1, mtime=0) if way == _GZIP else content)
    array = read_idx(path, 1 if content[3:4] == b"\1" else 3)
    if way == _GZIP:
        assert array.tobytes() == content[4 + 4 * array.ndim :]


def _read_set(content: bytes, folder: Path) -> None:
    size = int.from_bytes(content[:2])
    images, labels = content[2 : 2 + size], content[2 + size :]
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(labels)
    dataset = load_idx(str(folder))
    assert len(dataset.train.images) == len(dataset.test.labels) > 0
    assert dataset.train.labels.max() < dataset.classes


def idx(array: npt.NDArray[np.integer[Any]]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def _seeds() -> tuple[bytes, ...]:
    images, labels = idx(np.arange(60).reshape(5, 4, 3)), idx(np.arange(5))
    return (
        bytes([_RAW]) + images,
        bytes([_RAW]) + labels,
        bytes([_RAW]) + gzip.compress(images, mtime=0),
        bytes([_GZIP]) + images,
        bytes([_SET]) + len(images).to_bytes(2) + images + labels,
    )


TARGET = Target(read, _seeds())
