"""The JAX model in training: its compiled passes, losses and updates."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax as optax_library

from mlp_workload.errors import UserError
from twincheck.jax_side import JaxSide, Variables, cast, is_array
from twincheck.layouts import Layout, nearest
from twincheck.recording import Array, Recorder, clear_errors, has_shape, is_float, leaves, map_leaves
from twincheck.training_result import Pass

_LOSS = "jax_loss= takes the JAX model's output and the batch's targets as JAX arrays, and returns one number"
_OPTAX = "the parameters and gradients are dicts of arrays, by the names of the JAX parameters"


class JaxRun:
    """The JAX model's compiled passes, losses and updates, and its own training with nothing of torch's."""

    def __init__(
        self,
        pair: Any,
        loss: Callable[[Any, Any], Any] | None,
        torch_loss: Callable[[Any, Any], Any],
        optimizer: Any,
        convert: Callable[[Any], Any] | None,
        average: Callable[[Any, Any], Any] | None,
    ) -> None:
        self.side: JaxSide = pair.jax
        self._pair, self._optimizer, self._convert, self.average = pair, optimizer, convert, average
        self._loss, self._shared = loss or torch_loss, loss is None
        self._trained = sorted(self.side.trainable)
        self._template: Any = None
        self._layouts: dict[tuple[Any, ...], dict[int, Layout]] = {}
        self._shapes: dict[tuple[Any, ...], list[tuple[int, tuple[int, ...]]]] = {}
        with self.precision("float64"):
            self._values = {name: cast(array, "float64") for name, array in self.side.variables.items()}
            trained, self._rest = self.split(self._values)
            if not isinstance(optimizer, optax_library.GradientTransformation):
                given = getattr(optimizer, "__name__", type(optimizer).__name__)
                text = f"optax must be a GradientTransformation, such as optax.adamw(1e-3), not {given}"
                other = ": write .gradient_transformation() behind it"
                raise UserError(text + other * hasattr(optimizer, "gradient_transformation"))
            with clear_errors("optax's init", _OPTAX):
                self.optimizer_state = optimizer.init(trained)
            self._own = trained, self._rest, self.optimizer_state
        self._run = jax.jit(self._backward)
        self._loss_at = jax.jit(jax.value_and_grad(self._loss_of, has_aux=False))
        self._update = jax.jit(optimizer.update)
        self._free_step = jax.jit(self._whole_step)

    @contextlib.contextmanager
    def precision(self, dtype: str) -> Iterator[None]:
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
            yield

    def split(self, values: Variables) -> tuple[Variables, Variables]:
        """Returns the trained variables and the others."""
        trained = {name: values[name] for name in self._trained}
        return trained, {name: array for name, array in values.items() if name not in trained}

    def _forward(self, trained: Variables, rest: Variables, arrays: list[Any]) -> Any:
        recorder, given = Recorder(silent=True), iter(arrays)
        inputs = map_leaves(lambda _: next(given), self.side.inputs, is_array)
        self._template = self.side.applied(rest | trained, inputs, recorder)
        found = list(leaves(self._template, is_array))
        return [array for array in found if is_float(array)], (found, recorder.state)

    def _backward(self, trained: Variables, rest: Variables, arrays: list[Any], cotangents: list[Any]) -> Any:
        _, pull_back, (found, state) = jax.vjp(lambda t: self._forward(t, rest, arrays), trained, has_aux=True)
        return found, state, pull_back(cotangents)[0]

    def _loss_of(self, floats: list[Any], others: list[Any], targets: Any) -> Any:
        parts = {True: iter(floats), False: iter(others)}
        output = map_leaves(lambda array: next(parts[is_float(array)]), self._template, is_array)
        return self._loss(output, targets)

    def _whole_step(self, trained: Variables, rest: Variables, state: Any, arrays: list[Any], targets: Any) -> Any:
        def loss(trained: Variables) -> Any:
            floats, (found, changed) = self._forward(trained, rest, arrays)
            return self._loss_of(floats, [array for array in found if not is_float(array)], targets), changed

        gradients, changed = jax.grad(loss, has_aux=True)(trained)
        updates, state = self._optimizer.update(gradients, state, trained)
        return optax_library.apply_updates(trained, updates), rest | changed, state

    def arrays(self, inputs: Any, dtype: str) -> list[Any]:
        """Returns the arrays of the JAX model's inputs for inputs of the torch model."""
        theirs = [np.asarray(array) for array in leaves(self._pair.torch.inputs, has_shape)]
        ours = [np.asarray(array) for array in leaves(self.side.inputs, is_array)]
        if self._convert is not None:
            with clear_errors("jax_inputs", "it takes the inputs of a batch and returns those of the JAX model"):
                inputs = self._convert(inputs)
        found = [np.asarray(array) for array in leaves(inputs, has_shape)]
        if not found:
            owner = "what jax_inputs returned" if self._convert else "the inputs of a batch"
            raise UserError(f"{owner} must be arrays or hold such, not {type(inputs).__name__}: write np.asarray(...)")
        if any(array.dtype.kind in "OSU" for array in found):
            raise UserError("the inputs of a batch must be arrays of numbers, not of objects or strings")
        if not all(array.size for array in found):
            raise UserError("a batch has no examples: its inputs are empty arrays")
        if len(found) != len(ours):
            raise UserError(f"a batch has {len(found)} input arrays, the JAX model {len(ours)}: give jax_inputs=")
        if self._convert is None:
            found = [_laid_out(array, *sides) for array, *sides in zip(found, theirs, ours, strict=True)]
        return [cast(array.astype(like.dtype), dtype) for array, like in zip(found, ours, strict=True)]

    def run(
        self, values: Variables, arrays: list[Any], computed: Pass, dtype: str
    ) -> tuple[list[Array], dict[str, Array], dict[str, Array], dict[int, Layout]]:
        """Runs the model forward, and backward from torch's gradients of its outputs.

        Returns the outputs, the new state, the gradients, and the layouts of torch's outputs.
        """
        trained, rest = self.split({name: cast(array, dtype) for name, array in values.items()})
        key = tuple(output.shape for output in computed.outputs)
        if key not in self._layouts:
            floats, (shapes, _) = jax.eval_shape(self._forward, trained, rest, arrays)
            self._shapes[key] = [(b, shape.shape) for b, shape in enumerate(shapes) if is_float(shape)]
            ends = [jnp.zeros(shape.shape, shape.dtype) for shape in floats]
            found = [np.asarray(array) for array in self._run(trained, rest, arrays, ends)[0]]
            layouts = {b: nearest(computed.outputs[a], found[b]) for a, b in self._pair.outputs}
            self._layouts[key] = {b: layout for b, layout in layouts.items() if layout is not None}
        layouts_now = self._layouts[key]
        theirs = {b: layouts_now[b](computed.cotangents[a]) for a, b in self._pair.outputs if b in layouts_now}
        cotangents = [cast(theirs.get(b, np.zeros(shape)), dtype) for b, shape in self._shapes[key]]
        outputs, state, gradients = self._run(trained, rest, arrays, cotangents)
        return [np.asarray(o) for o in outputs], _numpy(state), _numpy(gradients), layouts_now

    def loss(self, outputs: list[Array], targets: Any) -> tuple[float, list[Array | None]]:
        """Returns the loss at these outputs, and its gradient at each, None where they are integers."""
        arrays = [cast(array, "float64") for array in outputs]
        floats, others = [a for a in arrays if is_float(a)], [a for a in arrays if not is_float(a)]
        with clear_errors("torch_loss on JAX arrays" if self._shared else "jax_loss", _LOSS):
            value, gradients = self._loss_at(floats, others, self.targets(targets))
        given = iter(gradients)
        return float(value), [np.asarray(next(given)) if is_float(array) else None for array in arrays]

    @staticmethod
    def targets(targets: Any) -> Any:
        return map_leaves(lambda array: cast(np.asarray(array), "float64"), targets, has_shape)

    def update(self, gradients: Variables, values: Variables) -> tuple[dict[str, Array], dict[str, Array]]:
        """Updates torch's parameters with torch's gradients. Returns the update in float64 and in float32."""
        with self.precision("float32"):
            rounded = jax.tree.map(lambda x: cast(x, "float32"), (gradients, self.optimizer_state, values))
            with clear_errors("optax's update", _OPTAX):
                low, _ = self._update(*rounded)
        updates, self.optimizer_state = self._update(gradients, self.optimizer_state, values)
        return _numpy(updates), _numpy(low)

    def train_alone(self, arrays: list[Any], targets: Any) -> Variables:
        """Takes a step from the state that the JAX model itself has come to; returns the new one."""
        trained: Variables
        rest: Variables
        trained, rest, state = self._free_step(*self._own, arrays, self.targets(targets))
        self._own = trained, rest, state
        return rest | trained


def _numpy(values: Mapping[str, Any]) -> dict[str, Array]:
    return {name: np.asarray(array) for name, array in values.items()}


def _laid_out(array: Array, theirs: Array, ours: Array) -> Array:
    """Returns an input of the torch model in the axes of the JAX model's, as those that the pair was made with tell."""
    if theirs.shape == ours.shape and array.ndim == theirs.ndim:
        layout = nearest(theirs, ours) if theirs.dtype.kind == "f" else None
        return array if layout is None or layout.axes is None else array.transpose(layout.axes)
    layout = nearest(theirs, ours)
    if layout is None or layout.axes is None or layout.split is not None or array.ndim != theirs.ndim:
        raise UserError(
            f"a batch's input has shape {array.shape}, that of the pair {theirs.shape} in torch and {ours.shape} "
            "in JAX: give batches in the form of the torch side's inputs, or jax_inputs="
        )
    return array.transpose(layout.axes)
