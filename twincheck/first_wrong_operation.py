"""The first operation of the JAX model with a wrong result, inside the code that computes one place."""

import linecache
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from twincheck.recording import Array, invoke

_AGREES = 1e-9
"""Two sums over a tensor in float64 are of the same values if they differ by less than this part."""

_MOVES = {"broadcast_in_dim", "copy", "expand_dims", "reshape", "rev", "squeeze", "stop_gradient", "transpose"}
"""JAX primitives that move values and compute none."""

_FRAMEWORKS = ("jax", "jaxlib", "flax", "equinox", "haiku", "torch", "twincheck")


@dataclass(frozen=True)
class Line:
    """A line of the user's code."""

    file: str
    number: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.number).strip()
        return f"{Path(self.file).name}:{self.number}{f': {text}' if text else ''}"


@dataclass(frozen=True)
class WrongOperation:
    """The first operation whose result torch has nowhere, and the one of torch on the same tensors, if any."""

    operation: str
    line: Line | None
    torch: str = ""
    torch_line: Line | None = None


Sums = tuple[float, ...]
"""Size, and of the finite values their number, sum, sum of magnitudes, sum of squares, least and largest.

They are the same in every order of the values.
"""


def sums(array: Array) -> Sums:
    """Returns what tells the values of a tensor from others, whatever the order of its axes."""
    values = np.asarray(array, np.float64).ravel()
    finite = values[np.isfinite(values)]
    if not finite.size:
        return (values.size, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    with np.errstate(over="ignore"):
        return (
            values.size, finite.size, float(finite.sum()), float(np.abs(finite).sum()), float(finite @ finite),
            float(finite.min()), float(finite.max()),
        )  # fmt: skip


def agree(a: Sums, b: Sums) -> bool:
    """Tells whether two tensors have the same values."""
    largest = max(abs(a[5]), abs(a[6]))
    scales = (a[3], a[3], a[4], largest, largest)
    return a[:2] == b[:2] and all(
        abs(x - y) <= _AGREES * scale for x, y, scale in zip(a[2:], b[2:], scales, strict=True)
    )


@dataclass(eq=False)
class Operation:
    """An operation of a pass, with the sums of its floating-point results and those of what it was given.

    `inputs` are operations in JAX. One without a `name` gives a tensor from outside: a place, a weight.
    """

    name: str
    line: Line | None
    outputs: list[Sums]
    inputs: Sequence["Operation"] = ()
    given: list[Sums] = field(default_factory=list)


def first_wrong_operation(end: Operation, torch: Sequence[Operation]) -> WrongOperation | None:
    """Returns the first operation on the way from torch's own tensors to `end` whose result torch has nowhere."""
    known = Known(torch)
    operations = list(_slice(end))
    right = {id(operation) for operation in operations if not operation.name or known.has(operation.outputs)}
    for operation in reversed(operations):  # torch may do in one operation what leads to a result that agrees
        if id(operation) in right:
            right.update(id(parent) for parent in operation.inputs)
    for operation in operations:
        if operation.name in _MOVES and all(id(parent) in right for parent in operation.inputs):
            right.add(id(operation))
    for operation in operations:
        if id(operation) in right or not all(id(parent) in right for parent in operation.inputs):
            continue
        ours = [output for other in operations if id(other) in right for output in other.outputs]
        given = [output for parent in operation.inputs for output in parent.outputs]
        for theirs in torch:
            takes = any(agree(a, b) for a in theirs.given for b in given)
            if takes and not all(any(agree(a, b) for b in ours) for a in theirs.outputs):
                return WrongOperation(operation.name, operation.line, theirs.name, theirs.line)
        return WrongOperation(operation.name, operation.line)
    return None


class Known:
    """The results of operations, to look tensors up in."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._by_size: dict[float, list[Sums]] = {}
        for operation in operations:
            for output in (*operation.outputs, *operation.given):
                self._by_size.setdefault(output[0], []).append(output)

    def has(self, outputs: Sequence[Sums]) -> bool:
        """Tells whether all these tensors are among the results."""
        return all(any(agree(output, other) for other in self._by_size.get(output[0], ())) for output in outputs)


def _slice(end: Operation) -> Iterator[Operation]:
    """Yields the operations that lead to `end`, and itself, each after those that it takes tensors from."""
    done, stack = set[int](), [(end, iter(end.inputs))]
    while stack:
        operation, parents = stack[-1]
        parent = next((parent for parent in parents if id(parent) not in done), None)
        if parent is None:
            stack.pop()
            if id(operation) not in done:
                done.add(id(operation))
                yield operation
        else:
            stack.append((parent, iter(parent.inputs)))


def users_line(frames: Iterable[tuple[str, str, int]]) -> Line | None:
    """Returns the line of the user's code in the frames of a call, the innermost first: file, function and line."""
    for file, function, number in frames:
        if (file, function) == (invoke.__code__.co_filename, invoke.__name__):  # behind it is who asked for the check
            return None
        if _is_users(file):
            return Line(file, number)
    return None


def _is_users(file: str) -> bool:
    """Tells whether a file belongs to the user's program, and not to Python, a framework or twincheck."""
    path = Path(file)
    for folder in ("site-packages", "dist-packages"):
        if folder in path.parts:
            return path.parts[path.parts.index(folder) + 1] not in _FRAMEWORKS
    return not (file.startswith(("<frozen", sys.base_prefix)) or path.parent == Path(__file__).parent)
