"""Records one forward and backward pass of any Flax NNX module; see also `twincheck/record_torch.py`."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mlp_workload.errors import UserError
from twincheck.calls import arguments, backward_order, join, numbered
from twincheck.trace import Trace, warn_of_rounding


def record(model: nnx.Module, loss: Callable[[jax.Array], jax.Array], *inputs: Any) -> Trace:
    """Returns copies of all arrays of `loss(model(*inputs))` and its gradients, in causal order:

    - the parameters, by their paths
    - `PATH.input` and `PATH.output` of each call of a module without submodules, in the order of the calls. The second
      call is `PATH.1.input`; several arguments are `PATH.input.0` and so on.
    - `PATH.NAME`, then `PATH.NAME.1`, for each `self.sow(nnx.Intermediate, NAME, ...)`, which stores nothing meanwhile
    - `output`, which the model returns; `loss`; `output.grad`
    - `NAME.grad` of each parameter, those of the last module called first
    - the other state after the pass, such as batch statistics, without random number generators

    Shapes are the model's own; `twincheck.trace.rename` maps the names and layouts of one model to another's. The model
    runs in its current mode and keeps the state that the pass leaves. Dropout cannot agree between frameworks.

    A parameter that the loss does not depend on has a zero gradient in JAX, and none in torch. `loss` must not use
    parameters: JAX differentiates it by the output alone. Calls inside `nnx.jit`, `nnx.scan` and the like are not
    recorded, because those work on modules of their own.

    Warns on standard error if the output is not float64, because rounding then hides small mistakes.

    Raises `UserError` if the model does not return one array, the loss is not a scalar, or two arrays have one name.
    Raises it also if a module is called inside a transformation that its arrays cannot leave, such as `jax.checkpoint`.
    """
    graph, parameters, *others = nnx.split(model, nnx.Param, ...)
    recording = _Recording()

    def forward(parameters: Any) -> Any:
        module = nnx.merge(graph, parameters, *jax.tree.map(lambda array: array, others))  # variables of its own
        recording.take_all(_by_path(parameters))
        with recording.watching(module):
            output = module(*inputs)
        if not isinstance(output, jax.Array):
            raise UserError(f"the model returns {type(output).__name__}, expected one array: wrap it")
        recording.take("output", output)
        arrays = list(recording.arrays.values())  # a dict would come out with its names sorted
        return output, (arrays, nnx.state(module, nnx.Not(nnx.Param)))

    output, pull_back, (arrays, state) = jax.vjp(forward, parameters, has_aux=True)
    recording.arrays = dict(zip(recording.arrays, arrays, strict=True))
    for name, array in recording.arrays.items():
        if isinstance(array, jax.core.Tracer):
            raise UserError(f"{name} is computed inside a transformation of the model's own and can't come out of it")
    value, loss_pull_back = jax.vjp(loss, output)
    if value.shape != ():
        raise UserError(f"the loss has shape {value.shape}, expected one number: take its mean or its sum")
    recording.take("loss", value)
    (output_gradient,) = loss_pull_back(jnp.ones_like(value))
    recording.take("output.grad", output_gradient)
    (gradients,) = pull_back(output_gradient)
    named = _by_path(gradients)
    recording.take_all({f"{name}.grad": named[name] for name in backward_order(named, recording.calls)})
    recording.take_all(_by_path(nnx.filter_state(state, nnx.Not(nnx.Any(nnx.RngState, nnx.Intermediate)))))
    nnx.update(model, state)
    tensors = {name: np.array(array) for name, array in recording.arrays.items()}
    warn_of_rounding(tensors["output"])
    return Trace(tensors, {"framework": "jax", "version": jax.__version__})


class _Recording:
    """Arrays by name in the order of recording, and paths of modules in the order of their calls."""

    def __init__(self) -> None:
        self.arrays: dict[str, jax.Array] = {}
        self.calls: list[str] = []
        self._running: set[str] = set()
        self._sown: list[str] = []

    def take(self, name: str, value: Any) -> None:
        """Records the array `value`, or all arrays in it."""
        for leaf, array in _leaves(name, value):
            if leaf in self.arrays:
                raise UserError(f"two arrays of the pass are called {leaf}: rename one in the model")
            self.arrays[leaf] = jnp.asarray(array)

    def take_all(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.take(name, value)

    @contextlib.contextmanager
    def watching(self, model: nnx.Module) -> Iterator[None]:
        """Wraps `nnx.Module.sow`, and `__call__` of the modules' types and their bases, while the context lasts."""
        modules = {id(module): (path, module) for path, module in nnx.iter_modules(model)}
        paths = {key: ".".join(map(str, path)) for key, (path, _) in modules.items()}
        bases = {base for _, module in modules.values() for base in type(module).__mro__}
        with contextlib.ExitStack() as replaced:
            for owner, method, wrap in (
                *((base, "__call__", self._call_wrapper) for base in bases if "__call__" in vars(base)),
                (nnx.Module, "sow", self._sow_wrapper),
            ):
                original = vars(owner)[method]
                replaced.callback(setattr, owner, method, original)
                setattr(owner, method, wrap(original, paths))
            yield

    def _call_wrapper(self, original: Any, paths: Mapping[int, str]) -> Any:
        @wraps(original)
        def call(module: nnx.Module, *inputs: Any, **keywords: Any) -> Any:
            path = paths.get(id(module))
            if path is None or path in self._running:  # a module of another model, or `super().__call__`
                return original(module, *inputs, **keywords)
            self._running.add(path)
            self.calls.append(path)
            name = numbered(path, self.calls.count(path) - 1)
            if leaf := _is_leaf(module):
                self.take(join(name, "input"), arguments(inputs, keywords))
            output = original(module, *inputs, **keywords)
            if leaf and path:  # `record` takes the output of the root
                self.take(join(name, "output"), output)
            self._running.remove(path)
            return output

        return call

    def _sow_wrapper(self, original: Any, paths: Mapping[int, str]) -> Any:
        @wraps(original)
        def sow(module: nnx.Module, variable_type: Any, name: str, value: Any, *more: Any, **keywords: Any) -> Any:
            if id(module) not in paths or variable_type not in (nnx.Intermediate, "intermediates"):
                return original(module, variable_type, name, value, *more, **keywords)
            name = join(paths[id(module)], name)
            self.take(numbered(name, self._sown.count(name)), value)
            self._sown.append(name)
            return True

        return sow


def _is_leaf(module: nnx.Module) -> bool:
    return sum(1 for _ in nnx.iter_modules(module)) == 1


def _by_path(state: Any) -> dict[str, Any]:
    return {".".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the arrays in `value`, those in containers as `NAME.0` or `NAME.key`; anything else is left out."""
    if isinstance(value, jax.Array | np.ndarray):
        yield name, value
    elif isinstance(value, Mapping | tuple | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(f"{name}.{key}", part)
