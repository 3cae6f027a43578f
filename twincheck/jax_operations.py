"""The operations that a JAX model performs, one primitive at a time, with the lines of code that they come from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from twincheck.first_wrong_operation import Line, Operation, sums, users_line
from twincheck.jax_calls import VISIT, is_array
from twincheck.jax_side import JaxSide
from twincheck.recording import Array, Force, Place, is_float

_INSIDE = ("jaxpr", "call_jaxpr")
"""Parameters of primitives that run another program."""


def operations(side: JaxSide, force: Force) -> tuple[Mapping[Place, Operation], Sequence[Operation]]:
    """Runs the model in float64 on forced values. Returns what computed the value of each place, and each output."""
    evaluation = _Evaluation(force)
    with side.traced("float64", evaluation.force) as (program, arguments):
        given = [(argument, _OUTSIDE) for argument in arguments]
        constants = [(constant, _OUTSIDE) for constant in program.consts]
        outputs = evaluation.run(program.jaxpr, constants, given)
    return evaluation.ends, [operation for _, operation in outputs]


_OUTSIDE = Operation("", None, [])
"""Stands for what computed arguments and constants."""

_Value = tuple[Any, Operation]


class _Evaluation:
    """Evaluates a program and keeps, for each value, the operation that computed it."""

    def __init__(self, force: Force) -> None:
        self.ends: dict[Place, Operation] = {}
        self._force = force
        self._visited: tuple[Place, bool] | None = None

    def force(self, place: Place, value: Array) -> Array | None:
        """Notes the place that is visited, and whether another value is put there."""
        forced = self._force(place, value)
        self._visited = place, forced is not None
        return forced

    def run(self, program: Jaxpr, constants: Sequence[_Value], arguments: Sequence[_Value]) -> list[_Value]:
        values = dict(zip((*program.constvars, *program.invars), (*constants, *arguments), strict=True))

        def read(atom: Any) -> _Value:
            return (atom.val, _OUTSIDE) if isinstance(atom, Literal) else values[atom]

        for equation in program.eqns:
            found = self._evaluate(equation, [read(atom) for atom in equation.invars])
            values |= zip(equation.outvars, found, strict=True)
        return [read(atom) for atom in program.outvars]

    def _evaluate(self, equation: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        inner = next((equation.params[name] for name in _INSIDE if name in equation.params), None)
        if inner is not None and equation.primitive.name not in ("scan", "while"):
            closed = getattr(inner, "consts", [])
            return self.run(getattr(inner, "jaxpr", inner), [(constant, _OUTSIDE) for constant in closed], inputs)
        bound = equation.primitive.get_bind_params(equation.params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)  # the former before JAX 0.10
        result = equation.primitive.bind(*functions, *(value for value, _ in inputs), **params)
        if equation.primitive is VISIT:
            place, is_forced = self._visited  # type: ignore[misc]
            self.ends[place] = inputs[0][1]
            return [(result, Operation("", None, [sums(np.asarray(result))]) if is_forced else inputs[0][1])]
        results = result if equation.primitive.multiple_results else [result]
        outputs = [sums(np.asarray(array)) for array in results if is_array(array) and is_float(array)]
        operation = Operation(equation.primitive.name, _line(equation), outputs, [parent for _, parent in inputs])
        return [(array, operation) for array in results]


def _line(equation: JaxprEqn) -> Line | None:
    traceback: Any = equation.source_info.traceback
    frames = traceback.frames if traceback else ()
    return users_line((frame.file_name, frame.function_name, frame.line_num) for frame in frames)
