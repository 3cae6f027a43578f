"""Safetensors files of any origin, read into NumPy."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from mlp_workload.errors import UserError
from mlp_workload.files import check_is_file


def read(path: Path, kind: str) -> tuple[dict[str, npt.NDArray[Any]], Mapping[str, str]]:
    """The tensors by name, and the metadata. Raises `UserError`, naming the file, where it is no readable `kind`."""
    try:
        check_is_file(path)
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
            return tensors, file.metadata() or {}
    # TypeError: a type that NumPy lacks, such as bfloat16; ValueError: a shape that it lacks, such as of 70 dimensions.
    except (SafetensorError, TypeError, ValueError) as error:
        hint = "; reference_torch.convert makes one of a .pt" if path.suffix in (".pt", ".pth") else ""
        raise UserError(f"{path}: not a readable {kind} ({error}){hint}") from error
    except OSError as error:
        raise UserError(f"{path}: {os.strerror(error.errno) if error.errno else error}") from error
