"""Comparison of two traces, tensor by tensor in causal order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.errors import UserError
from twincheck.bounds import CAN_BE_ROUNDING, Bound, Bounds
from twincheck.trace import Trace

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Difference:
    """Largest difference of one tensor between two traces: its index, both values there, and the bound.

    `relative` is to `scale`, the largest magnitude of b's tensor, which is 0 for integers. `ulps` counts spacings of
    floating-point numbers at the larger of the two values. A nan or an infinity on either side is an infinite
    difference. If the shapes differ, `index` is empty and `note` gives the shapes.
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
    def headroom(self) -> float:
        """Bound over difference: below 1 the bound is exceeded, infinite for equal tensors."""
        return self.bound / self.absolute if self.absolute else float("inf")

    def __str__(self) -> str:
        if self.note:
            return f"{self.name}: {self.note}"
        index = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return f"{self.name}{index}: {self.a!r} and {self.b!r}, {self.summary}"

    @property
    def summary(self) -> str:
        """The difference and the bound in words."""
        if self.absolute == np.inf:
            both = not np.isfinite(self.a) and not np.isfinite(self.b)
            return "never within a bound" + (": both sides have diverged" if both else "")
        return f"{self.absolute:.2e} apart, allowed {self.bound:.2e}"


@dataclass(frozen=True)
class Comparison:
    """Differences of all tensors in causal order.

    `resolution` is the largest bound of any floating-point tensor, relative to its largest value: mistakes with smaller
    effects may not be seen. `rounded` tells whether any such tensor is below float64.
    """

    differences: tuple[Difference, ...]
    resolution: float = 0.0
    rounded: bool = False

    @property
    def first(self) -> Difference | None:
        """The first tensor that exceeds its bound: the cause, or the first recorded tensor that shows it."""
        return next((difference for difference in self.differences if not difference.within), None)

    @property
    def within(self) -> bool:
        return self.first is None

    def __str__(self) -> str:
        """The first difference, or how closely the traces agree; then what to try if that is not enough."""
        if self.first is not None:
            longer = "allow longer sums, as by terms= of uniform"
            fix = f"compare in float64, or {longer}" if self.rounded else longer
            can_be_rounding = self.first.headroom > 1 / CAN_BE_ROUNDING
            return f"{self.first}" + (f"; if this can be rounding, {fix}" if can_be_rounding else "")
        message = f"the same in all {len(self.differences)} tensors"
        if self.resolution:
            message += f"; mistakes of up to {self.resolution:.1e} of a tensor's largest value may not be seen"
            message += "; float64 would show smaller ones" if self.rounded else ""
        return message


def compare(trace_a: Trace, trace_b: Trace, bounds: Bounds, explained: Mapping[str, Array] | None = None) -> Comparison:
    """Compares two traces in the order of the first; `explained` are differences b - a that are accounted for.

    Raises `UserError` if both traces are empty. Raises it too, naming the tensor, if one trace lacks a tensor, if its
    type differs, or if its type is not supported, such as complex numbers.
    """
    if not trace_a.tensors and not trace_b.tensors:
        raise UserError("both traces are empty: there is nothing to compare")
    name_a, name_b = trace_a.facts.get("framework", "the first"), trace_b.facts.get("framework", "the second")
    for trace, other_trace, here, there in ((trace_a, trace_b, name_a, name_b), (trace_b, trace_a, name_b, name_a)):
        for name in trace.tensors:
            if name not in other_trace.tensors:
                raise UserError(f"{name} is in the trace of {here} and missing in that of {there}")
    for name, a in trace_a.tensors.items():
        if a.dtype != (b := trace_b.tensors[name]).dtype:
            raise UserError(f"{name} is {a.dtype} in the trace of {name_a} and {b.dtype} in that of {name_b}")
        if a.dtype.kind not in "biuf":
            raise UserError(f"{name} is {a.dtype}, expected whole numbers or float16, float32 or float64")
    differences = tuple(_differences(trace_a, trace_b, bounds, explained or {}))
    return Comparison(
        differences,
        max((difference.bound / difference.scale for difference in differences if difference.scale), default=0.0),
        any(array.dtype.kind == "f" and array.dtype != np.float64 for array in trace_b.tensors.values()),
    )


def _differences(a: Trace, b: Trace, bounds: Bounds, explained: Mapping[str, Array]) -> Iterator[Difference]:
    differing = 0
    for name, array in a.tensors.items():
        result = difference(name, array, b.tensors[name], bounds(name).after(differing), explained.get(name))
        differing += result.absolute > 0
        yield result


def difference(name: str, a: Array, b: Array, bound: Bound, explained: Array | None = None) -> Difference:
    """Returns the largest difference of `a` and `b`, after subtracting the part of b - a that is `explained`."""
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
            scale = float(np.abs(b).max())  # nan if any element is
    flat = int(distance.argmax())  # the first nan, if there is one
    index = tuple(int(i) for i in np.unravel_index(flat, a.shape))
    value_a, value_b, absolute = float(a[index]), float(b[index]), float(distance[index])
    if not np.isfinite(absolute):
        return Difference(name, index, value_a, value_b, np.inf, np.inf, np.inf, 0.0)
    if a.dtype.kind != "f":
        absolute = float(abs(int(a[index]) - int(b[index])))
        return Difference(name, index, value_a, value_b, absolute, absolute, absolute, bound.absolute)
    spacing = float(np.spacing(max(abs(a[index]), abs(b[index]))))
    allowed = max(bound.absolute, bound.relative * scale)
    relative = absolute / scale if scale else (0.0 if absolute == 0 else np.inf)
    return Difference(name, index, value_a, value_b, absolute, relative, absolute / spacing, allowed, scale=scale)
