"""Linear layers one after the other, found among named arrays."""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from mlp_workload import safetensors_file
from mlp_workload.errors import UserError
from mlp_workload.weights import Array, Parameters, check, parameter_shapes

_NAME = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<number>0|[1-9][0-9]{0,8})\.(?:weight|bias)")


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

    By their own names they are `N.weight` (fan_out, fan_in) and `N.bias` (fan_out,), all behind one prefix, such as
    `model.`, or none. The numbers N tell the order, and may skip some, as those of an `nn.Sequential` do.

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


def _layers(names: Mapping[str, Array], source: str) -> list[tuple[str, str]]:
    """What the weight and bias of each layer should be called. Raises `UserError` where another is among `names`."""
    found = {name: _NAME.fullmatch(name) for name in names}
    prefixes = Counter(match["prefix"] for match in found.values() if match)
    if not prefixes:
        raise UserError(f"{source}: no tensor's name ends in N.weight or N.bias, as those of linear layers do")
    ((prefix, _),) = prefixes.most_common(1)
    numbers = set()
    for name, match in found.items():
        if match is None or match["prefix"] != prefix:
            raise UserError(f"{source}: {name} is none of {prefix}N.weight and {prefix}N.bias, as linear layers have")
        numbers.add(int(match["number"]))
    return [(f"{prefix}{number}.weight", f"{prefix}{number}.bias") for number in sorted(numbers)]
