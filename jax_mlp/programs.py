"""What the trainer compiles: a step, an epoch, an evaluation. `docs/performance.md` says why they are as they are."""

from collections.abc import Callable
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
from mlp_workload.config import Config
from mlp_workload.metrics import Evaluation

Divide = Callable[[jax.Array], jax.Array]

_EVALUATED_AT_ONCE = 2000
"""Test examples whose activations are in a device's memory together; fits a processor's cache."""
_WORD = np.dtype(np.uint32)


FOR_ONE_CALL: Any = {"xla_backend_optimization_level": 1}
"""Compiler options for the random numbers of the initial weights: the same bits after half the time."""


class Programs:
    """The functions of a run, to be compiled. A state is the parameters and the optimizer's state, `transposed`.

    `step`, `epoch`, `part` and `evaluate` are what the functions below return; `shapes` are those of the module's
    parameters. `divide` says of a batch how devices share it.
    """

    def __init__(self, config: Config, pixels: int, classes: int, divide: Divide = lambda batch: batch) -> None:
        def model(seed: Any) -> MLP:
            return build_model(config, config.widths(pixels, classes), seed)

        self._model = model
        graph, self.shapes = nnx.split(nnx.eval_shape(model, np.uint32(0)))
        self.optimizer = sgd(config.learning_rate, config.momentum, config.nesterov, config.weight_decay)
        self.step = step_program(config, pixels, graph, self.optimizer, divide)
        self.epoch = epoch_program(self.step, config.batch_size)
        self.part = part_program(self.step, config.batch_size)
        self.evaluate = evaluation_program(config, graph, divide)

    def draw(self, seed: Any) -> Any:
        """The state before the first step, by the framework's initialiser. The seed is an argument and no constant, so
        that one compiled program is for all of them."""
        return self.begin(nnx.split(self._model(seed))[1])

    def begin(self, params: Params) -> Any:
        """The state before the first step, from the module's parameters."""
        params = transposed(params)
        return params, self.optimizer.init(params)


def step_program(
    config: Config, pixels: int, graph: nnx.GraphDef[MLP], optimizer: optax.GradientTransformation, divide: Divide
) -> Callable[..., Any]:
    """(state, words (n, w) of `pack`, labels (n,), batch (b,)) to (state, (tensors, gradients)).

    The gradients are `transposed` too: a CPU's matrix products are faster for weights that lie as (fan_out, fan_in).
    `tensors` are the step's by the names of `mlp_workload.trace`; where nobody takes them, the compiler leaves out what
    only they need.
    """

    def step(state: Any, words: jax.Array, labels: jax.Array, batch: jax.Array) -> Any:
        params, optimizer_state = state
        batch = divide(batch)
        images, y = unpack(gather(words, batch), pixels), gather(labels, batch)
        tensors = {"batch.images": images, "batch.labels": y, "inputs": normalize(config, images)}
        computed, gradients = loss_and_gradients(config, graph, params, tensors["inputs"], y)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        state = optax.apply_updates(params, updates), optimizer_state
        return state, (tensors | computed, gradients)

    return step


def loss_and_gradients(
    config: Config, graph: nnx.GraphDef[MLP], params: Params, x: jax.Array, labels: jax.Array
) -> tuple[dict[str, jax.Array], Params]:
    """Forward and backward pass over x (batch, pixels): the intermediates, loss and logits' gradient; the gradients.

    Parameters and gradients are `transposed`.
    """

    def forward(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        intermediates = dict(nnx.merge(graph, transposed(params)).intermediates(x))
        return intermediates["logits"], intermediates

    def loss(logits: jax.Array) -> jax.Array:
        return cross_entropy(logits, labels, config.label_smoothing).mean

    logits, pull_back, intermediates = jax.vjp(forward, params, has_aux=True)
    value, logits_gradient = jax.value_and_grad(loss)(logits)
    (gradients,) = pull_back(logits_gradient)
    return intermediates | {"loss": value, "logits.grad": logits_gradient}, gradients


def transposed(tree: Any) -> Any:
    """Weights (fan_in, fan_out) as (fan_out, fan_in), or back; the rest as it is."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, tree)


def epoch_program(step: Callable[..., Any], batch_size: int) -> Callable[..., Any]:
    """(state, words, labels, order (n,)) to (state, losses (steps,)), by `step_program`'s steps."""

    def epoch(state: Any, words: jax.Array, labels: jax.Array, order: jax.Array) -> Any:
        def trained(state: Any, batch: jax.Array) -> Any:
            state, (tensors, _) = step(state, words, labels, batch)
            return state, tensors["loss"]

        full = len(order) // batch_size * batch_size
        state, losses = lax.scan(trained, state, order[:full].reshape(-1, batch_size))
        if full < len(order):
            state, last = trained(state, order[full:])
            losses = jnp.append(losses, last)
        return state, losses

    return epoch


def part_program(step: Callable[..., Any], batch_size: int) -> Callable[..., Any]:
    """(state, words, labels, order (n,), losses (steps,), first, last) to (state, losses): from step `first` to before
    `last` of `epoch_program`'s full batches. One compiled program is for any two.
    """

    def part(
        state: Any, words: jax.Array, labels: jax.Array, order: jax.Array, losses: jax.Array, first: Any, last: Any
    ) -> Any:
        def trained(number: Any, carry: Any) -> Any:
            state, losses = carry
            batch = lax.dynamic_slice_in_dim(order, number * batch_size, batch_size)
            state, (tensors, _) = step(state, words, labels, batch)
            return state, losses.at[number].set(tensors["loss"])

        return lax.fori_loop(first, last, trained, (state, losses))

    return part


def evaluation_program(config: Config, graph: nnx.GraphDef[MLP], divide: Divide) -> Callable[..., Any]:
    """(`transposed` params, images of `in_chunks`, labels (n,)) to one array, which `evaluation` takes apart."""

    def evaluate(params: Params, chunks: jax.Array, labels: jax.Array) -> jax.Array:
        model = nnx.merge(graph, transposed(params))
        logits = lax.map(lambda images: model(normalize(config, divide(images))), chunks)
        logits = logits.reshape(-1, logits.shape[-1])[: len(labels)]  # without what fills the last chunk
        predictions = logits.argmax(axis=-1)
        others = jnp.where(jax.nn.one_hot(predictions, logits.shape[-1], dtype=bool), -jnp.inf, logits)
        margins = logits.max(axis=-1) - others.max(axis=-1)
        parts = cross_entropy(logits, labels).per_example, margins, predictions, (logits > 0).any(axis=0)
        return jnp.concatenate([part.astype(logits.dtype) for part in parts])

    return evaluate


def evaluation(values: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int32]) -> Evaluation:
    """What `evaluation_program` found for the examples of these `labels`."""
    n = len(labels)
    losses, margins, predictions, positive = np.split(values, [n, 2 * n, 3 * n])
    return Evaluation(losses, predictions.astype(np.int32), labels, positive.astype(bool), margins)


def in_chunks(images: npt.NDArray[np.uint8], shares: int) -> npt.NDArray[np.uint8]:
    """Rows (n, pixels) as (chunks, rows, pixels), of which `shares` devices have as many each; zeros fill the last."""
    chunks = -(-len(images) // (_EVALUATED_AT_ONCE * shares))
    rows = -(-len(images) // (chunks * shares)) * shares
    filled = np.pad(images, ((0, chunks * rows - len(images)), (0, 0)))
    return filled.reshape(chunks, rows, -1)


def pack(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Rows (n, pixels) as words (n, pixels / 4 rounded up): a gather of words moves four pixels at a time."""
    padding = -images.shape[1] % _WORD.itemsize
    return np.ascontiguousarray(np.pad(images, ((0, 0), (0, padding)))).view(_WORD)


def unpack(words: jax.Array, pixels: int) -> jax.Array:
    """The images (n, pixels) that `pack` made words of."""
    return lax.bitcast_convert_type(words, jnp.uint8).reshape(len(words), -1)[:, :pixels]


def gather(examples: jax.Array, batch: jax.Array) -> jax.Array:
    """The rows (b, ...) of `examples` (n, ...) that `batch` (b,) names; out of bounds is undefined."""
    return examples.at[batch].get(mode="promise_in_bounds")


def normalize(config: Config, images: jax.Array) -> jax.Array:
    """uint8 to the run's dtype: to 0..1, then standardised if the preset says so."""
    x = images.astype(config.dtype) / 255
    return (x - config.pixel_mean) / config.pixel_std if (config.pixel_mean, config.pixel_std) != (0, 1) else x
