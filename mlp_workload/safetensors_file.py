"""Safetensors files of any origin, read into NumPy."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from mlp_workload.errors import UserError
from mlp_workload.files import check_fits_memory, open_regular, reason

Shapes = Mapping[str, tuple[int, ...]]
_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
"""NumPy's by the format's names; the format has others, such as BF16 and F8_E4M3."""


def read(
    path: Path, kind: str, check: Callable[[Shapes], None] = lambda shapes: None
) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, str]]:
    """The tensors by name, and the metadata. `check` is given the shapes before any tensor is read.

    Raises `UserError`, naming the file, where it is no readable `kind`; its cause is an `OSError` or `MemoryError` if
    what is in the file could not be found out.
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
            for name, tensor in about.items():  # not through a map of the file, of which an I/O error ends the process
                if tensor["dtype"] not in _TYPES:
                    raise UserError(f"{path}: {name} is {tensor['dtype']}, which NumPy lacks: save it in float32")
                tensors[name] = np.empty(tensor["shape"], _TYPES[tensor["dtype"]])
                file.seek(start + tensor["data_offsets"][0])
                if file.readinto(tensors[name].reshape(-1).view(np.uint8).data) < tensors[name].nbytes:
                    raise UserError(f"{path}: it was cut short while it was read")
            return tensors, metadata
    # ValueError: a shape that NumPy lacks, such as of 70 dimensions.
    except (SafetensorError, TypeError, ValueError) as error:
        hint = "; reference_torch.convert makes one of a .pt" if path.suffix in (".pt", ".pth") else ""
        raise UserError(f"{path}: not a readable {kind} ({error}){hint}") from error
    except MemoryError as error:
        raise UserError(f"{path}: too large for the memory") from error
    except OSError as error:
        raise UserError(f"{path}: {reason(error)}") from error
