"""Shows the calls of modules in a JAX model to a recorder, which can replace their tensors, forward and backward."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from mlp_workload.errors import UserError
from twincheck.recording import Place, Recorder, Shape, is_float, map_leaves


def is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended)


def is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic) and not is_key(value)


@contextlib.contextmanager
def call_of(
    recorder: Recorder, path: str, module: object, parameters: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[Callable[[Any, Any], Any]]:
    """Enters a call and yields `visit(value, port)`, which shows the arrays in `value` to the recorder."""
    if recorder.silent:
        yield lambda value, port: value
        return
    shapes = {name: Shape(array.shape) for name, array in parameters.items()}
    kind = module if isinstance(module, str) else type(module).__name__
    key = recorder.begin(path, kind, shapes, settings)
    handles = {"input": iter(range(10_000)), "output": iter(range(10_000))}

    def visit(value: Any, port: Any) -> Any:
        def one(array: Any) -> Any:
            place = Place(*key, port, next(handles[port]))
            if is_float(array) and recorder.backward:
                return _visit(jnp.asarray(array), place, _Key(recorder))
            return VISIT.bind(jnp.asarray(array), place=place, recorder=_Key(recorder))

        return map_leaves(one, value, is_array)

    changed = recorder.settings.get(path, {})
    before = {name: getattr(module, name) for name in changed if hasattr(module, name)}
    try:
        for name in before:
            object.__setattr__(module, name, changed[name])
        yield visit
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)
        recorder.end()


Describe = Callable[[Any], tuple[str, Mapping[str, Any], Mapping[str, Any]] | None]
"""Returns the path, the own parameters and the settings of a module; None if it isn't part of the model."""


@contextlib.contextmanager
def watch_classes(classes: Iterable[type], recorder: Recorder, describe: Describe) -> Iterator[None]:
    """Shows the recorder the calls of modules of these classes."""

    def wrapper(original: Any) -> Any:
        @wraps(original)
        def called(module: Any, *inputs: Any, **keywords: Any) -> Any:
            run = original.__get__(module, type(module))
            found = describe(module)
            if found is None or recorder.is_running(found[0]):  # the latter is `super().__call__`
                return run(*inputs, **keywords)
            path, parameters, settings = found
            with call_of(recorder, path, module, parameters, settings) as visit:
                inputs, keywords = visit((inputs, keywords), "input")
                return visit(run(*inputs, **keywords), "output")

        return called

    owners = {base for kind in classes for base in kind.__mro__ if "__call__" in vars(base)}
    with contextlib.ExitStack() as undo:
        for owner in owners:
            original = vars(owner)["__call__"]
            undo.callback(setattr, owner, "__call__", original)
            setattr(owner, "__call__", wrapper(original))  # noqa: B010
        yield


class _Key:
    """Makes a recorder a parameter of a primitive: equal to itself alone."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __hash__(self) -> int:
        return id(self.recorder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.recorder is self.recorder


VISIT = Primitive("twincheck_visit")
"""Identity that shows its operand to a recorder. As a primitive it also runs in vmap, checkpoint and custom rules."""


def _visit_impl(array: Any, *, place: Place, recorder: _Key) -> Any:
    value = recorder.recorder.visit(place, np.asarray(array))
    return array if value is None or not is_float(array) else jnp.asarray(value, array.dtype)


def _visit_abstract(array: Any, *, place: Place, recorder: _Key) -> Any:
    return array


def _visit_batch(operands: Any, dims: Any, *, place: Place, recorder: _Key) -> Any:
    return VISIT.bind(jnp.moveaxis(operands[0], dims[0], 0), place=place, recorder=recorder), 0


VISIT.def_impl(_visit_impl)
VISIT.def_abstract_eval(_visit_abstract)
batching.primitive_batchers[VISIT] = _visit_batch
# For complex numbers, whose gradients are not compared.
ad.primitive_jvps[VISIT] = lambda primals, tangents, **given: (VISIT.bind(*primals, **given), tangents[0])


def _visit_lowering(*_: Any, **__: Any) -> Any:
    raise UserError(
        "the JAX model calls a module inside a loop that can't run step by step, as a while_loop under vmap: "
        "unroll it, or give the model inputs without the batch axis"
    )


mlir.register_lowering(VISIT, _visit_lowering)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _visit(array: Any, place: Place, recorder: _Key) -> Any:
    return VISIT.bind(array, place=place, recorder=recorder)


def _visit_forward(array: Any, place: Place, recorder: _Key) -> Any:
    return VISIT.bind(array, place=place, recorder=recorder), None


def _visit_backward(place: Place, recorder: _Key, _: None, cotangent: Any) -> Any:
    gradient = place._replace(gradient=True)
    return (VISIT.bind(cotangent, place=gradient, recorder=recorder),)


_visit.defvjp(_visit_forward, _visit_backward)
