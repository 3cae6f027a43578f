"""Safetensors files, as weights come in them."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from fuzz.target import Target
from mlp_workload.files import read_safetensors
from mlp_workload.weights import load_weights, parameter_shapes

SHAPES = parameter_shapes((3, 2))
WORDS = ("__metadata__", "data_offsets", "dtype", "shape", "BF16", "BOOL", "C64", "F4", "F16", "F32", "F64", "F8_E4M3",
         "I8", "I16", "I32", "I64", "U64", "4611686018427387904", "1,1,1,1,1,1,1,1,")  # fmt: skip


def framed(content: bytes) -> bytes:
    """A content whose first byte is odd is a header, a zero byte, and the numbers: this puts the right length in front.

    One whose first byte is even is the file from there on.
    """
    if not content or content[0] % 2 == 0:
        return content[1:]
    header, _, numbers = content[1:].partition(b"\0")
    return len(header).to_bytes(8, "little") + header + numbers


def unframed(file: bytes) -> bytes:
    """The content that `framed` makes a whole `file` of."""
    end = 8 + int.from_bytes(file[:8], "little")
    return b"\1" + file[8:end] + b"\0" + file[end:]


def read(content: bytes, folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(framed(content))
    tensors, _ = read_safetensors(path, "safetensors file")
    assert sum(array.nbytes for array in tensors.values()) < path.stat().st_size
    parameters = load_weights(path, SHAPES, "float32")
    assert all(np.isfinite(array).all() for array in parameters.values())


def _seeds() -> tuple[bytes, ...]:
    whole = save({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}, {"format": "np"})
    return unframed(whole), b"\0" + whole


TARGET = Target(read, _seeds(), (*WORDS, *SHAPES))
