"""Regression tests of a JAX model against values that torch once computed, without torch.

A pin has the inputs, the weights, and a sample of every tensor of the forward pass that was compared. Weights or
inputs of more than `LARGEST_STORED` bytes are not in it: then it has their digest, and the model must hold the same.
"""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlp_workload.errors import UserError, one_line, refusal
from mlp_workload.files import clear_write_errors, read_at_most, write_atomically
from twincheck.recording import Array, Call, Place, has_shape, is_float, leaves, map_leaves

LARGEST_STORED = 2**20
"""Most bytes of the weights, and of the inputs, in a pin."""

_SAMPLES = 2**15
"""Values of all tensors together that a pin has; each has at least 16."""

_MARGIN = 16
"""A tensor may lie this many times as far from torch's as it did when it was pinned."""

_SMALLEST_BOUND = 1e-9
"""And this far in any case, relative to its largest value: sums in float64 on another machine, through a deep model."""

_LARGEST_FILE = 2**28
"""Most bytes of a pin, packed and unpacked."""


def write(report: Any, path: Path) -> None:
    """Writes the pin of a checked pair. Raises `UserError` if the two models differ."""
    if not report.same:
        raise UserError(f"cannot pin a port that differs from torch: {report.verdict}")
    pair = report.pair
    pinned = [m.place for m in report.places if m.place and not m.place.gradient and not m.boundary]
    free = frozenset(mismatch.place for mismatch in report.places if mismatch.place)
    forcing, recording = pair.forced("float64", free)
    tensors = {str(place): (forcing.seen[place], forcing.theirs(place)) for place in pinned}
    for a, b in pair.outputs:
        theirs, ours = pair.truth.outputs[a], recording.outputs[b]
        layout = forcing.output_layout(theirs, ours)
        if is_float(theirs) and layout is not None:
            tensors[f"output {b}"] = ours, layout(theirs)
    count = max(16, _SAMPLES // len(tensors))
    samples = {name: Sample.of(theirs, count) for name, (_, theirs) in tensors.items()}
    bounds = {name: max(_SMALLEST_BOUND, _MARGIN * samples[name].distance(ours)) for name, (ours, _) in tensors.items()}
    about: dict[str, Any] = {
        "tensors": {
            name: {"shape": sample.shape, "scale": sample.scale, "bound": bounds[name]}
            for name, sample in samples.items()
        }
    }
    arrays = {f"tensor:{name}": sample.values for name, sample in samples.items()}
    inputs = {str(i): array for i, array in enumerate(_inputs(pair.jax))}
    for kind, group in (("input", inputs), ("weight", {n: _storable(a) for n, a in pair.jax.parameters.items()})):
        about[kind] = digest(group)
        if sum(array.nbytes for array in group.values()) <= LARGEST_STORED:
            arrays |= {f"{kind}:{name}": array for name, array in group.items()}
    file = io.BytesIO()
    np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]  # takes them for flags
    with clear_write_errors(path):
        write_atomically(path, file.getvalue())


def check(path: Path, side: Any) -> None:
    """Runs a copy of a JAX side in float64 and compares it with a pin.

    Raises `AssertionError` with the first tensor that is out, and `UserError` if the pin doesn't fit the side.
    """
    about, arrays = _read(path)
    if getattr(side, "framework", "torch") == "torch":
        raise UserError("check_pin takes the file and a JAX side: check_pin(path, nnx(port, inputs))")
    inputs, weights = _group(arrays, "input"), _group(arrays, "weight")
    side = replace(side)
    own = {name: _storable(array) for name, array in side.parameters.items()}
    if weights:
        _check_fit(path, "parameters", weights, own)
        side.load(weights)
    elif digest(own) != about["weight"]:
        raise UserError(f"{path}: the model has other weights than those pinned: load the file of twincheck.convert")
    given = {str(i): array for i, array in enumerate(_inputs(side))}
    if inputs:
        _check_fit(path, "inputs", inputs, given)
        stored = iter(inputs[name] for name in given)
        side.inputs = map_leaves(lambda array: next(stored), side.inputs, has_shape)
    elif digest(given) != about["input"]:
        raise UserError(f"{path}: the inputs are not those that were pinned")
    recording = side.run("float64")
    computed = {
        str(Place(call.path, call.number, port, i)): array
        for call in recording.calls
        for port, values in _ports(call)
        for i, array in enumerate(values)
    } | {f"output {i}": array for i, array in enumerate(recording.outputs)}
    problems = list(_problems(about, arrays, computed))
    if problems:
        total, first = len(about["tensors"]), one_line(problems[0])
        raise AssertionError(f"{len(problems)} of {total} tensors differ from torch's; the first: {first}")


@dataclass(frozen=True)
class Sample:
    """Values of a tensor, evenly spread, and at the end one projection of the whole tensor."""

    shape: tuple[int, ...]
    scale: float
    values: Array
    count: int

    @classmethod
    def of(cls, tensor: Array, count: int) -> "Sample":
        tensor = np.asarray(tensor, np.float64)
        finite = np.abs(tensor[np.isfinite(tensor)])
        return cls(tensor.shape, float(finite.max(initial=0.0)), _sampled(tensor, count), count)

    def distance(self, tensor: Array) -> float:
        """Returns the largest difference of the values, relative to the largest finite value of the tensor."""
        if tensor.shape != self.shape:
            return float("inf")
        ours = _sampled(np.asarray(tensor, np.float64), self.count)
        with np.errstate(invalid="ignore"):
            same = (ours == self.values) | (np.isnan(ours) & np.isnan(self.values))
            differences = np.where(same, 0.0, np.abs(ours - self.values))
        largest = float(differences.max(initial=0.0))
        return largest / self.scale if self.scale else largest


def _sampled(tensor: Array, count: int) -> Array:
    flat = tensor.reshape(-1)
    positions = np.unique(np.linspace(0, max(flat.size - 1, 0), min(count, flat.size), dtype=int))
    weights = np.cos(np.arange(flat.size))  # of no period, so that values that trade places show
    finite = np.where(np.isfinite(flat), flat, 0.0)
    return np.append(flat[positions], weights @ finite / max(flat.size, 1) ** 0.5)


def _problems(about: Mapping[str, Any], arrays: Mapping[str, Array], computed: Mapping[str, Array]) -> Iterator[str]:
    """Yields a sentence for each pinned tensor that is out, in the order of the calls."""
    for name, facts in about["tensors"].items():
        if name not in computed:
            yield f"{name} is not computed any more (after a change of names, pin anew)"
            continue
        values = arrays[f"tensor:{name}"]
        shape = tuple(facts["shape"])
        if computed[name].shape != shape:
            yield f"{name} has the shape {computed[name].shape}, torch's {shape}"
            continue
        distance = Sample(shape, facts["scale"], values, len(values) - 1).distance(computed[name])
        if not distance <= facts["bound"]:
            yield f"{name} by {distance:.1e} of its largest value (allowed {facts['bound']:.1e})"


def digest(arrays: Mapping[str, Array]) -> str:
    """Returns the SHA-256 of arrays with their names and shapes."""
    result = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        result.update(f"{name} {array.dtype} {array.shape}\n".encode())
        result.update(np.ascontiguousarray(array).tobytes())
    return result.hexdigest()


def _read(path: Path) -> tuple[Any, dict[str, Array]]:
    content = io.BytesIO(read_at_most(path, _LARGEST_FILE))
    try:
        _check_size(content)
        with np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(str(arrays.pop("about")))
        _check_form(about, arrays)
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds
        raise UserError(f"{path} is not a pin that report.pin wrote ({refusal(error)})") from error
    return about, arrays


def _check_size(content: io.BytesIO) -> None:
    with zipfile.ZipFile(content) as archive:
        entries = archive.infolist()
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise ValueError("packed in another way")  # whose readers unpack more than a file claims
    if sum(entry.file_size for entry in entries) > _LARGEST_FILE:
        raise ValueError(f"it unpacks to more than {_LARGEST_FILE // 2**20} MiB")


def _check_form(about: Any, arrays: Mapping[str, Array]) -> None:
    if not all(isinstance(about[kind], str) for kind in ("input", "weight")) or not about["tensors"]:
        raise ValueError("a part is missing")
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise ValueError(f"{name} has the type {array.dtype}")
    for name, facts in about["tensors"].items():
        values = arrays[f"tensor:{name}"]
        if (
            not all(isinstance(size, int) and size >= 0 for size in facts["shape"])
            or not all(isinstance(facts[key], float) and 0 <= facts[key] < math.inf for key in ("scale", "bound"))
            or values.dtype != np.float64
            or values.ndim != 1
            or not 1 <= values.size <= math.prod(facts["shape"]) + 1
        ):
            raise ValueError(f"{name} has no valid shape, scale, bound or values")


def _check_fit(path: Path, what: str, pinned: Mapping[str, Array], given: Mapping[str, Array]) -> None:
    for name in sorted(pinned.keys() | given.keys()):
        shapes = [group[name].shape if name in group else "missing" for group in (pinned, given)]
        if shapes[0] != shapes[1]:
            raise UserError(f"{path}: {what} of another model: {name} is {shapes[0]} in the pin, {shapes[1]} here")


def _group(arrays: Mapping[str, Array], kind: str) -> dict[str, Array]:
    prefix = f"{kind}:"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _inputs(side: Any) -> list[Array]:
    return [_storable(array) for array in leaves(side.inputs, has_shape)]


def _storable(array: Any) -> Array:
    """Returns an array with floats of fewer than 32 bits as float32, because .npz files know no bfloat16."""
    stored: Array = np.asarray(array)
    return stored.astype(np.float32) if is_float(stored) and stored.dtype.itemsize < 4 else stored


def _ports(call: Call) -> tuple[tuple[Literal["input", "output"], list[Array]], ...]:
    return ("input", call.inputs), ("output", call.outputs)
