"""Two traces held against each other, tensor by tensor in causal order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.errors import UserError
from twincheck.bounds import Bound, Bounds
from twincheck.trace import Trace

Array = npt.NDArray[Any]

_CAN_BE_ROUNDING = 10
"""Times the bound: a mistake can also be as small."""


@dataclass(frozen=True)
class Difference:
    """Where one tensor differs most between two traces: there `a` and `b`, their distance, and what is allowed.

    `relative` is to the largest magnitude of b's tensor, `ulps` counts spacings of floating-point numbers at the larger
    of the two values. A nan or an infinity on either side, or on both, is an infinite distance. Where even the shapes
    differ, `index` is empty and `note` says so. `scale` is the largest magnitude of b's tensor, 0 of whole numbers.
    """

    name: str
    index: tuple[int, ...]
    a: float
    b: float
    absolute: float
    relative: float
    ulps: float
    bound: float
    note: str = ""
    scale: float = 0.0

    @property
    def within(self) -> bool:
        return self.absolute <= self.bound

    @property
    def share(self) -> float:
        """Of the bound, how much is used up: 1 is just within."""
        return self.absolute / self.bound if self.bound else (0.0 if self.absolute == 0 else float("inf"))

    def __str__(self) -> str:
        if self.note:
            return f"{self.name}: {self.note}"
        where = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return f"{self.name}{where}: {self.a!r} and {self.b!r}, {self.verdict}"

    @property
    def verdict(self) -> str:
        """The distance and what is allowed, in words."""
        if self.absolute == np.inf:
            both = not np.isfinite(self.a) and not np.isfinite(self.b)
            return "never within a bound" + (": both sides have diverged" if both else "")
        return f"{self.absolute:.2e} apart, allowed {self.bound:.2e}"


@dataclass(frozen=True)
class Comparison:
    """The differences of all tensors in causal order.

    `resolution` is the most that any floating-point tensor was allowed to differ by, relative to its largest value:
    mistakes with smaller effects may not be seen. `rounded` tells whether such a tensor is in less than float64.
    """

    differences: tuple[Difference, ...]
    resolution: float = 0.0
    rounded: bool = False

    @property
    def first(self) -> Difference | None:
        """The first tensor out of its bound: the culprit, or the first thing that the culprit could show in."""
        return next((difference for difference in self.differences if not difference.within), None)

    @property
    def within(self) -> bool:
        return self.first is None

    def __str__(self) -> str:
        """The first difference, or how far the two are the same; and what to do if that is not enough."""
        if self.first is not None:
            longer = "allow longer sums, as by terms= of uniform"
            cure = f"compare in float64, or {longer}" if self.rounded else longer
            return f"{self.first}" + (
                f"; if this can be rounding, {cure}" if self.first.share < _CAN_BE_ROUNDING else ""
            )
        said = f"the same in all {len(self.differences)} tensors"
        if self.resolution:
            said += f"; mistakes of up to {self.resolution:.1e} of a tensor's largest value may not be seen"
            said += "; float64 would show smaller ones" if self.rounded else ""
        return said


def compare(trace_a: Trace, trace_b: Trace, bounds: Bounds, explained: Mapping[str, Array] | None = None) -> Comparison:
    """Compares two traces in the order of the first; `explained` are differences b - a that are accounted for.

    Raises `UserError`, naming the tensor, where one of the traces lacks it, the two have it in different types, or its
    type has no distance here, such as complex numbers; and where there is nothing to compare.
    """
    if not trace_a.tensors and not trace_b.tensors:
        raise UserError("both traces are empty: there is nothing to compare")
    names_a, names_b = trace_a.facts.get("framework", "the first"), trace_b.facts.get("framework", "the second")
    for one, other, name_one, name_other in (
        (trace_a, trace_b, names_a, names_b),
        (trace_b, trace_a, names_b, names_a),
    ):
        for name in one.tensors:
            if name not in other.tensors:
                raise UserError(f"{name} is in the trace of {name_one} and missing in that of {name_other}")
    for name, a in trace_a.tensors.items():
        if a.dtype != (b := trace_b.tensors[name]).dtype:
            raise UserError(f"{name} is {a.dtype} in the trace of {names_a} and {b.dtype} in that of {names_b}")
        if a.dtype.kind not in "biuf":
            raise UserError(f"{name} is {a.dtype}, expected whole numbers or float16, float32 or float64")
    differences = tuple(_differences(trace_a, trace_b, bounds, explained or {}))
    floating = {name: array for name, array in trace_b.tensors.items() if array.dtype.kind == "f"}
    return Comparison(
        differences,
        max((found.bound / found.scale for found in differences if found.scale), default=0.0),
        any(array.dtype != np.float64 for array in floating.values()),
    )


def _differences(a: Trace, b: Trace, bounds: Bounds, explained: Mapping[str, Array]) -> Iterator[Difference]:
    differing = 0
    for name, array in a.tensors.items():
        found = difference(name, array, b.tensors[name], bounds(name).after(differing), explained.get(name))
        differing += found.absolute > 0
        yield found


def difference(name: str, a: Array, b: Array, bound: Bound, explained: Array | None = None) -> Difference:
    """Where `a` and `b` differ most, once `explained`, b - a as far as it is accounted for, is taken off."""
    if a.shape != b.shape:
        note = f"shapes {a.shape} and {b.shape}"
        return Difference(name, (), np.nan, np.nan, np.inf, np.inf, np.inf, 0.0, note)
    if a.size == 0:
        return Difference(name, (), 0.0, 0.0, 0.0, 0.0, 0.0, bound.absolute)
    scale = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        if a.dtype.kind == "b":
            distance = a != b
        elif a.dtype.kind != "f":
            distance = np.asarray(np.maximum(a, b) - np.minimum(a, b)).view(f"u{a.itemsize}")  # never overflows
        else:
            distance = np.abs(a - b if explained is None else a + explained - b)
            scale = float(np.abs(b).max())  # nan where there is one
    flat = int(distance.argmax())  # the first nan, where there is one
    index = tuple(int(i) for i in np.unravel_index(flat, a.shape))
    one, other, absolute = float(a[index]), float(b[index]), float(distance[index])
    if not np.isfinite(absolute):
        return Difference(name, index, one, other, np.inf, np.inf, np.inf, 0.0)
    if a.dtype.kind != "f":
        absolute = float(abs(int(a[index]) - int(b[index])))
        return Difference(name, index, one, other, absolute, absolute, absolute, bound.absolute)
    spacing = float(np.spacing(max(abs(a[index]), abs(b[index]))))
    allowed = max(bound.absolute, bound.relative * scale)
    relative = absolute / scale if scale else (0.0 if absolute == 0 else np.inf)
    return Difference(name, index, one, other, absolute, relative, absolute / spacing, allowed, scale=scale)
