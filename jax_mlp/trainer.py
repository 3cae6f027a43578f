"""Training in JAX: a whole epoch is one compiled program."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from jax import lax

from jax_mlp.loss import cross_entropy
from jax_mlp.model import MLP, Params, build_model
from jax_mlp.optimizer import sgd
from jax_mlp.weights import from_neutral, load_neutral, to_neutral
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.metrics import Evaluation
from mlp_workload.trace import Trace, mlp_trace
from mlp_workload.weights import Parameters

_EVALUATED_AT_ONCE = 2000
"""Test examples whose activations are in memory together; fits a processor's cache."""


class Trainer:
    """See `mlp_workload.training.Trainer`. float64 needs `jax.enable_x64(True)` around all of it."""

    framework = "jax"
    packages = ("jax", "jaxlib", "flax", "optax")

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        device = self._device = find_device(config.device)
        self.device = "cpu" if device.platform == "cpu" else f"{device.platform} ({device.device_kind})"
        self._test_labels = dataset.test.labels
        with jax.default_device(device):
            model = build_model(config, config.widths(dataset.pixels, dataset.classes))
            if initial is not None:
                load_neutral(model, initial)
            optimizer = sgd(config.learning_rate, config.momentum, config.nesterov, config.weight_decay)
            graph, params = nnx.split(model)
            self._state = jax.block_until_ready(jax.device_put((params, optimizer.init(params)), device))
            self._train, self._test = (
                jax.device_put((examples.images.reshape(len(examples), -1), examples.labels), device)
                for examples in (dataset.train, dataset.test)
            )
        self._step: Any = jax.jit(_step_program(config, graph, optimizer))
        self._epoch: Any = jax.jit(_epoch_program(config, graph, optimizer), donate_argnums=0)
        self._evaluate: Any = jax.jit(_evaluation_program(config, graph))

    def compile(self) -> None:
        order = np.arange(len(self._train[1]), dtype=np.int32)
        self._epoch = self._epoch.lower(self._state, *self._train, order).compile()
        self._evaluate = self._evaluate.lower(self._state[0], *self._test).compile()

    def run_epoch(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        self._state, losses = self._epoch(self._state, *self._train, order)
        return np.asarray(losses)

    def evaluate(self) -> Evaluation:
        losses, predictions, positive, margins = jax.device_get(self._evaluate(self._state[0], *self._test))
        return Evaluation(losses, predictions, self._test_labels, positive, margins)

    def parameters(self) -> Parameters:
        return to_neutral(self._state[0])

    def state(self) -> Parameters:
        params, optimizer_state = self._state
        velocity = optax.tree.get(optimizer_state, "trace")
        return to_neutral(params) | ({} if velocity is None else _suffixed(to_neutral(velocity), "momentum"))

    def load_state(self, state: Parameters) -> None:
        params, optimizer_state = self._state
        if optax.tree.get(optimizer_state, "trace") is not None:
            velocity = {name: state[f"{name}.momentum"] for name in to_neutral(params)}
            optimizer_state = optax.tree.set(optimizer_state, trace=from_neutral(params, velocity))
        self._state = jax.device_put((from_neutral(params, state), optimizer_state), self._device)

    def trace_step(self, batch: npt.NDArray[np.int32]) -> Trace:
        self._state, (tensors, gradients) = self._step(self._state, *self._train, batch)
        return mlp_trace(jax.device_get(tensors) | _suffixed(to_neutral(gradients), "grad") | self.state())


def _suffixed(parameters: Parameters, suffix: str) -> Parameters:
    return {f"{name}.{suffix}": array for name, array in parameters.items()}


def _step_program(config: Config, graph: nnx.GraphDef[MLP], optimizer: optax.GradientTransformation) -> Any:
    """(state, images (n, pixels) uint8, labels (n,), batch (b,)) to (state, (tensors, gradients)).

    `tensors` are the step's by the names of `mlp_workload.trace`; where nobody takes them, the compiler leaves out
    what only they need.
    """

    def step(state: Any, images: jax.Array, labels: jax.Array, batch: jax.Array) -> Any:
        params, optimizer_state = state
        pixels, y = gather(images, batch), gather(labels, batch)
        tensors = {"batch.images": pixels, "batch.labels": y, "inputs": normalize(config, pixels)}
        computed, gradients = loss_and_gradients(config, graph, params, tensors["inputs"], y)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        state = optax.apply_updates(params, updates), optimizer_state
        return state, (tensors | computed, gradients)

    return step


def loss_and_gradients(
    config: Config, graph: nnx.GraphDef[MLP], params: Params, x: jax.Array, labels: jax.Array
) -> tuple[dict[str, jax.Array], Params]:
    """Forward and backward pass over x (batch, pixels): the intermediates, loss and logits' gradient; the gradients."""

    def forward(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        intermediates = dict(nnx.merge(graph, params).intermediates(x))
        return intermediates["logits"], intermediates

    def loss(logits: jax.Array) -> jax.Array:
        return cross_entropy(logits, labels, config.label_smoothing).mean

    logits, pull_back, intermediates = jax.vjp(forward, params, has_aux=True)
    value, logits_gradient = jax.value_and_grad(loss)(logits)
    (gradients,) = pull_back(logits_gradient)
    return intermediates | {"loss": value, "logits.grad": logits_gradient}, gradients


def _epoch_program(config: Config, graph: nnx.GraphDef[MLP], optimizer: optax.GradientTransformation) -> Any:
    """(state, images (n, pixels) uint8, labels (n,), order (n,)) to (state, losses (steps,))."""
    step_program = _step_program(config, graph, optimizer)

    def epoch(state: Any, images: jax.Array, labels: jax.Array, order: jax.Array) -> Any:
        def step(state: Any, batch: jax.Array) -> Any:
            state, (tensors, _) = step_program(state, images, labels, batch)
            return state, tensors["loss"]

        full = len(order) // config.batch_size * config.batch_size
        state, losses = lax.scan(step, state, order[:full].reshape(-1, config.batch_size))
        if full < len(order):
            state, last = step(state, order[full:])
            losses = jnp.append(losses, last)
        return state, losses

    return epoch


def _evaluation_program(config: Config, graph: nnx.GraphDef[MLP]) -> Any:
    """(params, images (n, pixels) uint8, labels (n,)) to the fields of `Evaluation` but for its labels."""

    def evaluate(params: Params, images: jax.Array, labels: jax.Array) -> Any:
        model = nnx.merge(graph, params)
        logits = lax.map(lambda image: model(normalize(config, image)), images, batch_size=_EVALUATED_AT_ONCE)
        predictions = logits.argmax(axis=-1)
        others = jnp.where(jax.nn.one_hot(predictions, logits.shape[-1], dtype=bool), -jnp.inf, logits)
        margins = logits.max(axis=-1) - others.max(axis=-1)
        return cross_entropy(logits, labels).per_example, predictions, (logits > 0).any(axis=0), margins

    return evaluate


def gather(examples: jax.Array, batch: jax.Array) -> jax.Array:
    """The rows (b, ...) of `examples` (n, ...) that `batch` (b,) names; out of bounds is undefined."""
    return examples.at[batch].get(mode="promise_in_bounds")


def normalize(config: Config, images: jax.Array) -> jax.Array:
    """uint8 to the run's dtype: to 0..1, then standardised if the preset says so."""
    x = images.astype(config.dtype) / 255
    return (x - config.pixel_mean) / config.pixel_std if (config.pixel_mean, config.pixel_std) != (0, 1) else x


def find_device(wanted: str) -> jax.Device:
    """The device for `--device auto|cpu|gpu`. Raises `UserError` where a GPU is wanted and there is none."""
    try:
        return jax.devices(None if wanted == "auto" else wanted)[0]
    except RuntimeError as error:
        raise UserError(f"--device {wanted}: JAX sees none ({error})") from error
