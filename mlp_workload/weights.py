"""Canonical names and layouts of parameters, and their safetensors files.

The names are `layers.0.weight` (fan_out, fan_in) and `layers.0.bias` (fan_out,), counted from the input: torch's
convention.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from mlp_workload.errors import UserError
from mlp_workload.files import Shapes, read_safetensors, write_atomically

Array = npt.NDArray[np.floating[Any]]
Parameters = dict[str, Array]


def parameter_shapes(widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes, from the input on, of an MLP of these widths: (784, 200, 200, 10) has three layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        shapes[f"layers.{layer}.weight"] = (fan_out, fan_in)
        shapes[f"layers.{layer}.bias"] = (fan_out,)
    return shapes


def is_parameter(name: str) -> bool:
    """Returns whether this is the name of a parameter, and not of an optimizer's array or another tensor of a step."""
    return name.endswith((".weight", ".bias"))


def check(parameters: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raises `UserError`, naming the tensor, if one is missing, extra, misshapen, not floating or not finite."""
    check_shapes({name: array.shape for name, array in parameters.items()}, shapes, source)
    for name in shapes:
        array = parameters[name]
        if array.dtype not in (np.float32, np.float64):
            raise UserError(f"{source}: {name} is {array.dtype}, expected float32 or float64")
        if not (finite := np.isfinite(array)).all():
            index = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise UserError(f"{source}: {name} holds {array[index]} at {index}")


def check_shapes(found: Shapes, expected: Shapes, source: str) -> None:
    """Raises `UserError`, naming the tensor, if one is missing, extra or misshapen."""
    for name in sorted(expected.keys() - found.keys()):
        raise UserError(f"{source}: {name} is missing")
    for name in sorted(found.keys() - expected.keys()):
        raise UserError(f"{source}: {name} is not a parameter of this model, which has {', '.join(expected)}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise UserError(f"{source}: {name} has shape {found[name]}, expected {shape}")


def save_weights(path: Path, parameters: Parameters) -> None:
    """Writes a safetensors file atomically. Raises `UserError` if it can't."""
    write_atomically(path, save({name: np.ascontiguousarray(array) for name, array in parameters.items()}))


def load_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str | None = None) -> Parameters:
    """Reads a safetensors file that holds exactly `shapes`, in float32 or float64, finite also in `dtype`.

    Returns the arrays in `dtype`, by default the file's. Raises `UserError`, naming the file and the tensor, if the
    file does not fit.
    """
    parameters, _ = read_safetensors(path, "safetensors file", lambda found: check_shapes(found, shapes, str(path)))
    check(parameters, shapes, str(path))
    with np.errstate(over="ignore"):
        parameters = {name: parameters[name].astype(dtype or parameters[name].dtype, copy=False) for name in shapes}
    check(parameters, shapes, f"{path} in {dtype}")
    return parameters


_NAME = re.compile(r"(?P<path>.+)\.(?:weight|bias)")
_NUMBER = re.compile(r"(?<![0-9])(?:0|[1-9][0-9]{0,8})(?![0-9])")


def load_layers(path: Path) -> Parameters:
    """Reads a safetensors file of parameters under canonical names, of any widths, from the input on.

    Raises `UserError`, naming the file and the tensor, if it is not one.
    """
    arrays, _ = read_safetensors(path, "safetensors file")
    parameters = find_layers(arrays, str(path))
    check(arrays, parameter_shapes(layer_widths(parameters)), str(path))
    return parameters


def find_layers(arrays: Mapping[str, Array], source: str) -> Parameters:
    """Returns `arrays` under canonical names, from the input on.

    Their own names are `PATH.weight` (fan_out, fan_in) and `PATH.bias` (fan_out,). If the paths differ only in their
    numbers, such as `model.0` and `model.2`, `fc1` and `fc2` or `layers.0.linear` and `layers.1.linear`, the numbers
    give the order. Otherwise, as for `hidden` and `out`, the order is that of `arrays`.

    Raises `UserError`, naming the array, if one is missing, extra, misshapen, not floating or not finite.
    """
    layers = _layers(arrays, source)
    names = [name for layer in layers for name in layer]
    for name in names:
        if name not in arrays:
            raise UserError(f"{source}: {name} is missing")
    for weight, bias in layers:
        shape = arrays[weight].shape
        if len(shape) != 2 or 0 in shape:
            raise UserError(f"{source}: {weight} has shape {shape}, expected (fan_out, fan_in)")
        if arrays[bias].shape != shape[:1]:
            raise UserError(f"{source}: {bias} has shape {arrays[bias].shape}, but {weight} has {shape}")
    for (before, _), (weight, _) in pairwise(layers):
        if arrays[weight].shape[1] != arrays[before].shape[0]:
            shapes = f"{weight} has shape {arrays[weight].shape}, but {before} before it {arrays[before].shape}"
            raise UserError(f"{source}: {shapes}")
    ordered = {name: arrays[name] for name in names}
    check(arrays, {name: array.shape for name, array in ordered.items()}, source)
    return dict(zip(parameter_shapes(layer_widths(ordered)), ordered.values(), strict=True))


def layer_widths(parameters: Parameters) -> tuple[int, ...]:
    """Returns the widths of an MLP with these parameters, input and output included."""
    weights = [array for array in parameters.values() if array.ndim == 2]
    return (weights[0].shape[1], *(weight.shape[0] for weight in weights))


def _layers(names: Iterable[str], source: str) -> list[tuple[str, str]]:
    """Returns the names of each layer's weight and bias, in order. Raises `UserError` for any other name."""
    paths = {name: match["path"] if (match := _NAME.fullmatch(name)) else "" for name in names}
    forms = Counter(_NUMBER.sub("N", path) for path in paths.values() if path)
    if not forms:
        raise UserError(f"{source}: no tensor's name ends in N.weight or N.bias, as those of linear layers do")
    ((form, _),) = forms.most_common(1)
    ordered = list(dict.fromkeys(paths.values()))
    if len(forms) == 1:
        ordered.sort(key=lambda path: [int(number) for number in _NUMBER.findall(path)])
    layers = [(f"{path}.weight", f"{path}.bias") for path in ordered if path]
    missing = [name for layer in layers for name in layer if name not in paths]
    for name, path in paths.items():
        if not path or (_NUMBER.sub("N", path) != form and missing):
            raise UserError(f"{source}: {name} is none of {form}.weight and {form}.bias, as linear layers have")
    return layers
