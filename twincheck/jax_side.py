"""Parts that all JAX sides share: one pass, eager and differentiated, whose tensors can be seen and replaced."""

import contextlib
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Primitive
from jax.interpreters import ad, batching, mlir

from mlp_workload.errors import UserError
from twincheck.calls import join
from twincheck.recording import (
    SOWN,
    Array,
    Call,
    Cotangents,
    Enough,
    Force,
    Patch,
    Place,
    Recorder,
    Recording,
    Shape,
    is_float,
    leaves,
    map_leaves,
    model_failed,
    sowing,
)

Variables = dict[str, Any]
"""Arrays by name."""

_NONE: dict[str, Any] = {}


@dataclass(repr=False)
class JaxSide:
    """A JAX model and its inputs.

    `apply(variables, inputs, recorder)` runs the model with these variables and shows the recorder every module's call.
    Variables that hold integers are left to the model. `trainable` names those that gradients are taken of. Parameters
    that `scan` takes apart into layers are held layer by layer, as "layers.0.kernel" of "layers.kernel".
    """

    framework: str
    variables: Variables
    trainable: set[str]
    inputs: Any
    apply: Callable[[Variables, Any, Recorder], Any]
    _patches: Sequence[Patch] = ()
    _settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _stacks: dict[str, int] | None = None
    _stacked: dict[str, tuple[list[str], int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.variables = {name: array for name, array in self.variables.items() if is_array(array) and is_float(array)}
        self.inputs = map_leaves(_given, self.inputs, lambda value: hasattr(value, "__array__") and not is_key(value))

    @property
    def parameters(self) -> dict[str, Array]:
        return {name: np.asarray(array) for name, array in self.variables.items()}

    def load(self, values: Mapping[str, Array]) -> None:
        """Takes over arrays by name."""
        self.variables |= {name: np.asarray(value) for name, value in values.items()}

    @contextlib.contextmanager
    def changed(
        self,
        patches: Sequence[Patch],
        settings: Mapping[str, Mapping[str, Any]] = _NONE,
        parameters: Mapping[str, Array] = _NONE,
    ) -> Iterator[None]:
        """Runs under patches, with other settings of modules by their paths and other parameters, in the context."""
        before = self.variables
        self._patches, self._settings = patches, settings
        self.variables = {**self.variables, **parameters}
        try:
            yield
        finally:
            self._patches, self._settings = (), {}
            self.variables = before

    def run(
        self,
        dtype: str = "float32",
        force: Force | None = None,
        cotangents: Cotangents | None = None,
    ) -> Recording:
        """Runs the model in `dtype`, forward, and backward if `cotangents` gives the gradients of its outputs."""
        recording = self._run(dtype, force, cotangents)
        if self._stacks is None:
            self._stacks = self._unstack(recording)
            if self._stacks:
                return self._run(dtype, force, cotangents)
        return recording

    def narrows(self) -> bool:
        """Tells whether values of a smaller type than float64 are in what the model computes in a float64 pass.

        So it is said to be if JAX can't trace the model.
        """

        def forward(variables: Variables) -> list[Any]:
            return list(leaves(self.applied(variables, inputs, Recorder(silent=True)), is_array))

        with jax.enable_x64(True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype")
            inputs = map_leaves(lambda array: cast(array, "float64"), self.inputs, is_array)
            try:
                traced = jax.make_jaxpr(forward)(
                    {name: cast(array, "float64") for name, array in self.variables.items()}
                )
            except UserError:
                return True
            mixed = any(map(_widens, _equations(traced.jaxpr)))
            return mixed or any(is_float(aval) and aval.dtype != np.float64 for aval in traced.out_avals)

    def _run(self, dtype: str, force: Force | None, cotangents: Cotangents | None) -> Recording:
        recorder = Recorder(force, self._stacks, self._settings, self._patches)
        recorder.backward = cotangents is not None
        with _running(dtype):
            forward, wanted, floats = self._program(dtype, recorder)
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

    @contextlib.contextmanager
    def traced(self, dtype: str, force: Force) -> Iterator[tuple[ClosedJaxpr, list[Any]]]:
        """Traces the model and yields its program and the arguments; it can be evaluated until the context ends.

        The program shows the values of its places to `force`. It has no jitted functions and no loops.
        """
        recorder = Recorder(force, self._stacks)
        recorder.backward = False
        with _running(dtype):
            forward, wanted, floats = self._program(dtype, recorder)
            yield jax.make_jaxpr(lambda *given: forward(*given)[1])(wanted, floats), jax.tree.leaves((wanted, floats))

    def _program(self, dtype: str, recorder: Recorder) -> tuple[Callable[..., Any], Variables, list[Any]]:
        """Returns a function of parameters and floating-point inputs, and these. It returns its outputs twice.

        The first are the floating-point ones, which have gradients.
        """
        variables = {name: cast(array, dtype) for name, array in self.variables.items()}
        inputs = map_leaves(lambda array: cast(array, dtype), self.inputs, is_array)
        wanted = {name: variables.pop(name) for name in sorted(self.trainable)}
        floats = [array for array in leaves(inputs, is_array) if is_float(array)]

        def forward(wanted: Variables, floats: list[Any]) -> Any:
            given = iter(floats)
            replaced = map_leaves(lambda x: next(given) if is_float(x) else x, inputs, is_array)
            output = self.applied(variables | wanted, replaced, recorder)
            found = list(leaves(output, is_array))
            if not found:
                kind = type(output).__name__
                raise UserError(f"the {self.framework} model returned {kind}: let call= return arrays")
            return [array for array in found if is_float(array)], found

        return forward, wanted, floats

    def applied(self, variables: Variables, inputs: Any, recorder: Recorder) -> Any:
        for name, (layers, axis) in self._stacked.items():
            variables[name] = jnp.stack([variables.pop(layer) for layer in layers], axis)

        def show(name: str, value: Any) -> Any:
            with call_of(recorder, name, SOWN, {}, {}) as visit:
                return visit(value, "output")

        try:
            with sowing(show):
                return self.apply(variables, inputs, recorder)
        except (UserError, Enough):
            raise
        except Exception as error:
            wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
            in_float64 = wide and self._stacks is not None  # the first pass is in float32
            raise model_failed(self.framework, error, only_in_float64=in_float64) from error

    def _unstack(self, recording: Recording) -> dict[str, int]:
        """Holds the parameters of which each call of a module sees one layer layer by layer.

        Returns the number of layers of each module that has such parameters, by its path.
        """
        stacks: dict[str, int] = {}
        calls = Counter(call.path for call in recording.calls)
        axes: dict[str, tuple[Call, int, int]] = {}
        whole = {name: np.shape(array) for name, array in self.variables.items()}
        for call in recording.calls:
            for own, array in call.parameters.items():
                name = join(call.path, own)
                shape = whole.get(name, ())
                for axis, length in enumerate(shape):
                    if shape[:axis] + shape[axis + 1 :] == tuple(array.shape) and calls[call.path] % length == 0:
                        axes.setdefault(name, (call, axis, length))
        for name, (call, axis, length) in axes.items():
            outer = [p for p in call.parents if p and all(n in axes for n in whole if n.startswith(f"{p}."))]
            stack = outer[0] if outer else call.path
            stacks[stack] = length
            layers = [f"{stack}.{i}{name.removeprefix(stack)}" for i in range(length)]
            self._stacked = self._stacked | {name: (layers, axis)}  # copies of the side may hold the same dict
            arrays = np.moveaxis(np.asarray(self.variables.pop(name)), axis, 0)
            self.variables |= dict(zip(layers, arrays, strict=True))
            if name in self.trainable:
                self.trainable = self.trainable - {name} | set(layers)
        return stacks


def _equations(jaxpr: Any) -> Iterator[Any]:
    """Yields the equations of a jaxpr, and of those inside of it in their place."""
    for equation in jaxpr.eqns:
        inside = [
            getattr(parameter, "jaxpr", parameter) for parameter in jax.tree.leaves(list(equation.params.values()))
        ]
        inside = [inner for inner in inside if hasattr(inner, "eqns")]
        yield from itertools.chain.from_iterable(map(_equations, inside)) if inside else [equation]


def _widens(equation: Any) -> bool:
    """Tells whether an equation makes float64 of a smaller floating-point type."""
    taken, given = ([v.aval for v in side if hasattr(v.aval, "dtype")] for side in (equation.invars, equation.outvars))
    smaller = any(is_float(aval) and aval.dtype != np.float64 for aval in taken)
    return smaller and any(aval.dtype == np.float64 for aval in given)


@contextlib.contextmanager
def _running(dtype: str) -> Iterator[None]:
    """Has JAX run operation by operation in `dtype`.

    So values can be seen inside of jitted functions and loops, patches reach into them, and a pass compiles what the
    next ones use too: the same few operations on the same shapes.
    """
    with contextlib.ExitStack() as contexts:
        contexts.enter_context(jax.enable_x64(dtype == "float64"))
        contexts.enter_context(jax.disable_jit())
        contexts.enter_context(jax.default_matmul_precision("highest"))
        contexts.enter_context(_without_remat())
        contexts.enter_context(warnings.catch_warnings())
        # A model of float64 in a float32 pass: its arrays, and its smallest number as the value of a mask.
        warnings.filterwarnings("ignore", "Explicitly requested dtype")
        contexts.enter_context(np.errstate(over="ignore"))
        yield


@contextlib.contextmanager
def _without_remat() -> Iterator[None]:
    """Has `jax.checkpoint` return the function as it is: it would show values twice, and trace equal layers once."""
    names = ("checkpoint", "remat")
    originals = [getattr(jax, name) for name in names]

    def unchanged(function: Any = None, **_: Any) -> Any:
        return unchanged if function is None else function

    for name in names:
        setattr(jax, name, unchanged)
    try:
        yield
    finally:
        for name, original in zip(names, originals, strict=True):
            setattr(jax, name, original)


def _given(value: Any) -> Array:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)  # a torch tensor too


def is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.extended)


def is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic) and not is_key(value)


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
