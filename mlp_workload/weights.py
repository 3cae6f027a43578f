"""The neutral names and layouts of parameters, and their safetensors files.

`layers.0.weight` (fan_out, fan_in) and `layers.0.bias` (fan_out,), counted from the input: torch's convention.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from mlp_workload import safetensors_file
from mlp_workload.errors import UserError
from mlp_workload.files import write_atomically

Array = npt.NDArray[np.floating[Any]]
Parameters = dict[str, Array]
Shapes = safetensors_file.Shapes


def parameter_shapes(widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes, in order from the input, of an MLP of these widths: (784, 200, 200, 10) has three layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        shapes[f"layers.{layer}.weight"] = (fan_out, fan_in)
        shapes[f"layers.{layer}.bias"] = (fan_out,)
    return shapes


def check(parameters: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raises `UserError`, naming the tensor, where one is missing, extra, misshapen, not floating or not finite."""
    check_shapes({name: array.shape for name, array in parameters.items()}, shapes, source)
    for problem in _problems(parameters, shapes):
        raise UserError(f"{source}: {problem}")


def check_shapes(found: Shapes, expected: Shapes, source: str) -> None:
    """Raises `UserError`, naming the tensor, where one is missing, extra or misshapen."""
    for name in sorted(expected.keys() - found.keys()):
        raise UserError(f"{source}: {name} is missing")
    for name in sorted(found.keys() - expected.keys()):
        raise UserError(f"{source}: {name} is not a parameter of this model, which has {', '.join(expected)}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise UserError(f"{source}: {name} has shape {found[name]}, expected {shape}")


def _problems(parameters: Mapping[str, Array], shapes: Shapes) -> Iterator[str]:
    for name in shapes:
        array = parameters[name]
        if array.dtype not in (np.float32, np.float64):
            yield f"{name} is {array.dtype}, expected float32 or float64"
        if not (finite := np.isfinite(array)).all():
            index = tuple(int(i) for i in np.argwhere(~finite)[0])
            yield f"{name} holds {array[index]} at {index}"


def save_weights(path: Path, parameters: Parameters) -> None:
    """Writes a safetensors file, whole or not at all."""
    write_atomically(path, save({name: np.ascontiguousarray(array) for name, array in parameters.items()}))


def load_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str | None = None) -> Parameters:
    """Reads a safetensors file that must hold exactly `shapes`, in float32 or float64, all finite, also in `dtype`.

    The arrays come back in `dtype`, by default in the file's.

    Raises `UserError`, naming the file and the tensor, where it does not.
    """
    parameters, _ = safetensors_file.read(
        path, "safetensors file", lambda found: check_shapes(found, shapes, str(path))
    )
    check(parameters, shapes, str(path))
    with np.errstate(over="ignore"):
        parameters = {name: parameters[name].astype(dtype or parameters[name].dtype, copy=False) for name in shapes}
    check(parameters, shapes, f"{path} in {dtype}")
    return parameters
