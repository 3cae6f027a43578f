"""One training step and one evaluation, as pure functions.

Training, traces, the parity check, `--seeds` and the benchmark all run these. `reference_torch/step.py` has functions
of the same names in PyTorch, which change model and optimizer in place.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import value_and_grad

from jax_mlp.loss import cross_entropy
from jax_mlp.model import MLP, Params, build_model
from jax_mlp.optimizer import sgd
from mlp_workload.config import Config


class TrainState(NamedTuple):
    """The arrays that the next step depends on."""

    params: Params
    optimizer: optax.OptState


@dataclass(frozen=True)
class Setup:
    """Constants of a compiled step: settings, widths, structure of the model, shapes of its parameters, optimizer."""

    config: Config
    widths: tuple[int, ...]
    graph: nnx.GraphDef[MLP]
    shapes: Params
    optimizer: optax.GradientTransformation

    @classmethod
    def of(cls, config: Config, pixels: int, classes: int) -> "Setup":
        widths = tuple(config.widths(pixels, classes))
        graph, shapes = nnx.split(nnx.eval_shape(lambda: build_model(config, widths)))
        optimizer = sgd(config.learning_rate, config.momentum, config.nesterov, config.weight_decay)
        return cls(config, widths, graph, shapes, optimizer)


def init_state(setup: Setup, seed: jax.Array) -> TrainState:
    """Returns the state before the first step, with weights drawn by the run's initializer.

    The seed is an argument and no constant, so that one compiled program serves all seeds.
    """
    return begin(setup, nnx.split(build_model(setup.config, setup.widths, seed))[1])


def begin(setup: Setup, params: Params) -> TrainState:
    """Returns the state before the first step from given weights."""
    return TrainState(params, setup.optimizer.init(params))


def normalize(config: Config, images: jax.Array) -> jax.Array:
    """Converts uint8 images to the run's dtype: to 0..1, then standardized if the preset says so."""
    x = images.astype(config.dtype) / 255
    return (x - config.pixel_mean) / config.pixel_std if (config.pixel_mean, config.pixel_std) != (0, 1) else x


def loss_fn(
    setup: Setup, params: Params, x: jax.Array, labels: jax.Array, shift: jax.Array | float = 0.0
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the mean cross-entropy of x (batch, pixels), and every layer's tensors by the names of a trace.

    `shift` is added to the logits: the gradient with respect to it is that of the logits.
    """
    tensors = dict(nnx.merge(setup.graph, params).intermediates(x))
    tensors["logits"] = tensors["logits"] + shift
    return cross_entropy(tensors["logits"], labels, setup.config.label_smoothing).mean, tensors


def train_step(
    setup: Setup, state: TrainState, images: jax.Array, labels: jax.Array
) -> tuple[TrainState, dict[str, jax.Array], Params]:
    """Trains on images (batch, pixels), uint8, and labels (batch,); returns the new state, the tensors, the gradients.

    The tensors have the names of `twincheck.trace`. If nobody uses them the compiler leaves out what only they need.
    """
    x = normalize(setup.config, images)
    zero = jnp.zeros((len(x), setup.widths[-1]), x.dtype)
    gradients_of = value_and_grad(loss_fn, argnums=(1, 4), has_aux=True)
    (loss, tensors), (gradients, logits_gradient) = gradients_of(setup, state.params, x, labels, zero)
    updates, optimizer_state = setup.optimizer.update(gradients, state.optimizer, state.params)
    params = cast(Params, optax.apply_updates(state.params, updates))
    tensors |= {"batch.images": images, "batch.labels": labels, "inputs": x, "loss": loss}
    return TrainState(params, optimizer_state), tensors | {"logits.grad": logits_gradient}, gradients


def eval_step(setup: Setup, params: Params, images: jax.Array) -> jax.Array:
    """Returns the logits (batch, classes) of images (batch, pixels), uint8."""
    logits: jax.Array = nnx.merge(setup.graph, params)(normalize(setup.config, images))
    return logits
