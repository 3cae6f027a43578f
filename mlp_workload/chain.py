"""Linear layers one after the other, found among named arrays."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from mlp_workload import safetensors_file
from mlp_workload.errors import UserError
from mlp_workload.weights import Array, Parameters, check, parameter_shapes

_NAME = re.compile(r"(?P<path>.+)\.(?:weight|bias)")
_NUMBER = re.compile(r"(?<![0-9])(?:0|[1-9][0-9]{0,8})(?![0-9])")


def load(path: Path) -> Parameters:
    """Reads a safetensors file of parameters under neutral names, of any widths, from the input on.

    Raises `UserError`, naming the file and the tensor, where it is none.
    """
    arrays, _ = safetensors_file.read(path, "safetensors file")
    parameters = find(arrays, str(path))
    check(arrays, parameter_shapes(widths(parameters)), str(path))
    return parameters


def find(arrays: Mapping[str, Array], source: str) -> Parameters:
    """`arrays` under neutral names, from the input on.

    By their own names they are `PATH.weight` (fan_out, fan_in) and `PATH.bias` (fan_out,). If the paths differ only in
    their numbers, such as `model.0` and `model.2`, `fc1` and `fc2` or `layers.0.linear` and `layers.1.linear`, the
    numbers tell the order. Otherwise, as for `hidden` and `out`, it is that of `arrays`.

    Raises `UserError`, naming the array, where one is missing, extra, misshapen, not floating or not finite.
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
    return dict(zip(parameter_shapes(widths(ordered)), ordered.values(), strict=True))


def widths(parameters: Parameters) -> tuple[int, ...]:
    """Of all layers of an MLP with these parameters, input and output included."""
    weights = [array for array in parameters.values() if array.ndim == 2]
    return (weights[0].shape[1], *(weight.shape[0] for weight in weights))


def _layers(names: Iterable[str], source: str) -> list[tuple[str, str]]:
    """The names of each layer's weight and bias, in order. Raises `UserError` if there is another among `names`."""
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
