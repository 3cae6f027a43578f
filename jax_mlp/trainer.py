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
from jax_mlp.weights import load_neutral, to_neutral
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.metrics import Evaluation
from mlp_workload.weights import Parameters

_EVALUATED_AT_ONCE = 2000
"""Test examples whose activations are in memory together; fits a processor's cache."""


class Trainer:
    """See `mlp_workload.training.Trainer`. float64 needs `jax.enable_x64(True)` around all of it."""

    framework = "jax"
    packages = ("jax", "jaxlib", "flax", "optax")

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        device = find_device(config.device)
        self.device = "cpu" if device.platform == "cpu" else f"{device.platform} ({device.device_kind})"
        self._config = config
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
        losses, predictions, positive = jax.device_get(self._evaluate(self._state[0], *self._test))
        return Evaluation(losses, predictions, self._test_labels, positive)

    def parameters(self) -> Parameters:
        return to_neutral(self._state[0])


def _epoch_program(config: Config, graph: nnx.GraphDef[MLP], optimizer: optax.GradientTransformation) -> Any:
    """(state, images (n, pixels) uint8, labels (n,), order (n,)) to (state, losses (steps,))."""

    def epoch(state: Any, images: jax.Array, labels: jax.Array, order: jax.Array) -> Any:
        def step(state: Any, batch: jax.Array) -> Any:
            params, optimizer_state = state
            x = normalize(config, images.at[batch].get(mode="promise_in_bounds"))
            y = labels.at[batch].get(mode="promise_in_bounds")

            def loss(params: Params) -> jax.Array:
                return cross_entropy(nnx.merge(graph, params)(x), y, config.label_smoothing).mean

            value, gradients = jax.value_and_grad(loss)(params)
            updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), value

        full = len(order) // config.batch_size * config.batch_size
        state, losses = lax.scan(step, state, order[:full].reshape(-1, config.batch_size))
        if full < len(order):
            state, last = step(state, order[full:])
            losses = jnp.append(losses, last)
        return state, losses

    return epoch


def _evaluation_program(config: Config, graph: nnx.GraphDef[MLP]) -> Any:
    """(params, images (n, pixels) uint8, labels (n,)) to (losses (n,), predictions (n,), positive (classes,))."""

    def evaluate(params: Params, images: jax.Array, labels: jax.Array) -> Any:
        model = nnx.merge(graph, params)
        logits = lax.map(lambda image: model(normalize(config, image)), images, batch_size=_EVALUATED_AT_ONCE)
        return cross_entropy(logits, labels).per_example, logits.argmax(axis=-1), (logits > 0).any(axis=0)

    return evaluate


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
