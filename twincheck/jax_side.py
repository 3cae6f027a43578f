"""Parts that all JAX sides share: one pass, eager and differentiated, whose tensors can be seen and replaced."""

import contextlib
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from mlp_workload.errors import UserError
from twincheck.calls import join
from twincheck.jax_calls import call_of, is_key
from twincheck.jax_calls import is_array as is_array  # training.py imports it from here
from twincheck.recording import (
    SOWN,
    Array,
    Call,
    Cotangents,
    Enough,
    Force,
    Patch,
    Recorder,
    Recording,
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


def cast(array: Any, dtype: str) -> jax.Array:
    """Returns an array as a JAX array, of `dtype` if it is floating-point."""
    if not hasattr(array, "dtype"):
        array = np.asarray(array)
    return jnp.asarray(array, dtype) if is_float(array) else jnp.asarray(array)
