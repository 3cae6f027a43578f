"""What the JAX sides of a pair share: one pass, eager and differentiated, whose tensors can be seen and replaced."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from twincheck.recording import Array, Force, Place, Recorder, Recording, is_float, leaves, map_leaves

Variables = dict[str, Any]
"""Arrays by name."""


@dataclass
class JaxSide:
    """A JAX model and its inputs.

    `apply(variables, inputs, recorder)` runs the model with these variables and shows the recorder every module's call.
    `trainable` names those that gradients are taken of. `layout` says how the library stores a dense kernel:
    "in, out" as Flax and Haiku do, or "out, in" as Equinox and PyTorch do.
    """

    framework: str
    variables: Variables
    trainable: set[str]
    inputs: Any
    apply: Callable[[Variables, Any, Recorder], Any]
    modules: Callable[[], Sequence[object]]
    patches: list[Callable[[], contextlib.AbstractContextManager[Any]]] = field(default_factory=list)

    @property
    def parameters(self) -> dict[str, Array]:
        return {name: np.asarray(array) for name, array in self.variables.items()}

    def load(self, values: Mapping[str, Array]) -> None:
        """Takes over arrays by name."""
        self.variables |= {name: np.asarray(value) for name, value in values.items()}

    def run(
        self, dtype: str = "float32", force: Force | None = None, cotangents: Callable[[Sequence[Array]], Sequence[Array]] | None = None
    ) -> Recording:
        """Runs the model in `dtype`, forward, and backward if `cotangents` gives the gradients of its outputs."""
        recorder = Recorder(force)
        with contextlib.ExitStack() as contexts:
            contexts.enter_context(jax.enable_x64(dtype == "float64"))
            contexts.enter_context(jax.disable_jit())
            contexts.enter_context(jax.default_matmul_precision("highest"))
            for patch in self.patches:
                contexts.enter_context(patch())
            variables = {name: cast(array, dtype) for name, array in self.variables.items()}
            inputs = map_leaves(lambda array: cast(array, dtype), self.inputs, is_array)
            wanted = {name: variables.pop(name) for name in sorted(self.trainable)}
            floats = [array for array in leaves(inputs, is_array) if is_float(array)]

            def forward(wanted: Variables, floats: list[Any]) -> Any:
                given = iter(floats)
                replaced = map_leaves(lambda x: next(given) if is_float(x) else x, inputs, is_array)
                output = self.apply(variables | wanted, replaced, recorder)
                found = list(leaves(output, is_array))
                return [array for array in found if is_float(array)], found

            if cotangents is None:
                _, outputs = forward(wanted, floats)
                return Recording(recorder.calls, [np.asarray(array) for array in outputs])
            ends, pull_back, outputs = jax.vjp(forward, wanted, floats, has_aux=True)
            arrays = [np.asarray(array) for array in outputs]
            given = [end for end, array in zip(cotangents(arrays), arrays, strict=True) if is_float(array)]
            gradients, _ = pull_back([jnp.asarray(g, end.dtype) for g, end in zip(given, ends, strict=True)])
            return Recording(
                recorder.calls, arrays, {name: np.asarray(gradient) for name, gradient in gradients.items()}
            )


def is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def cast(array: Any, dtype: str) -> jax.Array:
    """Returns an array as a JAX array, of `dtype` if it is floating-point."""
    if not hasattr(array, "dtype"):
        array = np.asarray(array)
    return jnp.asarray(array, dtype) if is_float(array) else jnp.asarray(array)


@contextlib.contextmanager
def call_of(
    recorder: Recorder, path: str, module: object, parameters: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[Callable[[Any, Any], Any]]:
    """Enters a call and yields `visit(value, port)`, which shows the arrays in `value` to the recorder."""
    shapes = {name: array if isinstance(array, np.ndarray) else _Shape(array.shape) for name, array in parameters.items()}
    call = recorder.begin(path, type(module).__name__, shapes, settings)  # type: ignore[arg-type]
    handles = {"input": iter(range(10_000)), "output": iter(range(10_000))}

    def visit(value: Any, port: Any) -> Any:
        def one(array: Any) -> Any:
            place = Place(path, call.number, port, next(handles[port]))
            if is_float(array):
                return _visit(jnp.asarray(array), place, _Key(recorder))
            _visit_p.bind(jnp.asarray(array), place=place, recorder=_Key(recorder))
            return array

        return map_leaves(one, value, is_array)

    try:
        yield visit
    finally:
        recorder.end()


@dataclass(frozen=True)
class _Shape:
    """The shape of a parameter, of which a pass sees only a tracer."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


class _Key:
    """Makes a recorder a parameter of a primitive: equal to itself alone."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __hash__(self) -> int:
        return id(self.recorder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.recorder is self.recorder


_visit_p = Primitive("twincheck_visit")
"""Identity that shows its operand to a recorder. As a primitive it also runs in vmap, checkpoint and custom rules."""


@_visit_p.def_impl
def _visit_impl(array: Any, *, place: Place, recorder: _Key) -> Any:
    value = recorder.recorder.visit(place, np.asarray(array))
    return array if value is None else jnp.asarray(value, array.dtype)


@_visit_p.def_abstract_eval
def _visit_abstract(array: Any, *, place: Place, recorder: _Key) -> Any:
    return array


def _visit_batch(operands: Any, dims: Any, *, place: Place, recorder: _Key) -> Any:
    return _visit_p.bind(jnp.moveaxis(operands[0], dims[0], 0), place=place, recorder=recorder), 0


batching.primitive_batchers[_visit_p] = _visit_batch
mlir.register_lowering(_visit_p, lambda context, array, **_: [array])  # compiled passes show nothing


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _visit(array: Any, place: Place, recorder: _Key) -> Any:
    return _visit_p.bind(array, place=place, recorder=recorder)


def _visit_forward(array: Any, place: Place, recorder: _Key) -> Any:
    return _visit_p.bind(array, place=place, recorder=recorder), None


def _visit_backward(place: Place, recorder: _Key, _: None, cotangent: Any) -> Any:
    gradient = place._replace(gradient=True)
    return (_visit_p.bind(cotangent, place=gradient, recorder=recorder),)


_visit.defvjp(_visit_forward, _visit_backward)
