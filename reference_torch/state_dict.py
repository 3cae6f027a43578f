"""Reads and writes torch's own weight files: the `state_dict` of a stack of linear layers."""

import io
import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from mlp_workload.config import Config
from mlp_workload.errors import UserError, warn
from mlp_workload.files import check_fits_memory, open_regular, reason
from mlp_workload.weights import Array, Parameters, find_layers, layer_widths
from reference_torch.model import MLP
from reference_torch.weights import to_state_dict

_HALVES = (torch.float16, torch.bfloat16)


def read(path: Path) -> Parameters:
    """Reads the parameters under canonical names, in the file's dtypes. Code in the file is not run.

    Widens float16 and bfloat16 to float32, without loss and with a warning. Raises `UserError`, naming the file and the
    key, if `mlp_workload.weights.find_layers` refuses the tensors.
    """
    try:
        with open_regular(path) as file, warnings.catch_warnings(action="ignore"):  # about TorchScript, to be refused
            check_fits_memory(size := path.stat().st_size, str(path))
            records = zipfile.ZipFile(file).infolist() if zipfile.is_zipfile(file) else []
            if any(record.compress_type for record in records if "/data" in record.filename):
                raise UserError(f"{path}: holds compressed numbers, and torch.save writes none")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: {reason(error)}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path}: {_reason(error)}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}, expected a state_dict")
    arrays: Parameters = {}
    total = 0
    for key, value in state.items():
        arrays[str(key)] = array = _array(value, f"{path}: {key}", size)
        check_fits_memory(total := total + array.nbytes, str(path))
    parameters = find_layers(arrays, str(path))
    if halves := {_dtype(value) for value in state.values() if value.dtype in _HALVES}:
        warn(f"{path}: {' and '.join(sorted(halves))} widened to float32")
    return parameters


def content(parameters: Parameters) -> bytes:
    """Returns a file with the `state_dict` of an `MLP` that has `parameters`, in their dtypes."""
    with torch.device("meta"):
        model = MLP(Config(), layer_widths(parameters))
    file = io.BytesIO()
    torch.save(to_state_dict(model, parameters), file)
    return file.getvalue()


def _array(value: Any, source: str, max_bytes: int) -> Array:
    """Returns a copy of a tensor.

    Raises `UserError` if `value` is not a tensor, has a dtype that NumPy lacks, or takes more than `max_bytes`. An
    expanded view of a few numbers can do so.
    """
    if not isinstance(value, torch.Tensor):
        raise UserError(f"{source} is of type {type(value).__name__}, not a tensor; save model.state_dict() alone")
    if value.dtype not in (torch.float32, torch.float64, *_HALVES):
        raise UserError(f"{source} is {_dtype(value)}, expected float32 or float64")
    try:
        if (size := math.prod(value.shape) * value.element_size()) > max_bytes:
            raise UserError(f"{source} takes {size} bytes, more than the whole file: save a copy of it, by .clone()")
        array: Array = (value.float() if value.dtype in _HALVES else value).detach().numpy().copy()
    except (RuntimeError, TypeError) as error:  # sparse, or on the meta device
        raise UserError(f"{source} has no plain numbers ({error})") from error
    return array


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _reason(error: Exception) -> str:
    """Returns why `torch.load` refuses a file, without its advice to run the code in it."""
    if code := re.search(r"GLOBAL (\S+)", str(error)):
        return f"holds {code[1]}, which is code and not run; save model.state_dict() alone"
    if not isinstance(error, RuntimeError):  # a damaged pickle, or none
        return "not a readable state_dict, but damaged or of something else than tensors"
    sentence, *_ = re.split(r"[.] |[.]?\n", str(error))
    return f"not a readable state_dict ({sentence})"
