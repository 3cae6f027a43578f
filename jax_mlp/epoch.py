"""An epoch, a part of one and an evaluation of the test set, by the functions of `step.py`.

`docs/performance.md` says why they are as they are. A training set is its images as words (n, w) of `pack`, and labels
(n,). `shard` says of a batch how devices share it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from jax_mlp.loss import cross_entropy
from jax_mlp.model import Params
from jax_mlp.step import Setup, TrainState, eval_step, train_step
from mlp_workload.batches import EVALUATED_AT_ONCE
from mlp_workload.metrics import Evaluation

Shard = Callable[[jax.Array], jax.Array]
Carry = tuple[TrainState, jax.Array]

_WORD = np.dtype(np.uint32)
FOR_ONE_CALL: Any = {"xla_backend_optimization_level": 1}
"""Compiler options for the random numbers of the initial weights: the same bits after half the time."""


def train_steps(
    setup: Setup,
    shard: Shard,
    state: TrainState,
    words: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    first: jax.Array | int,
    last: jax.Array | int,
) -> tuple[TrainState, jax.Array]:
    """Trains on the batches from `first` to before `last` of the examples `order` (n,).

    Returns the losses (batches,) too; those of the other batches are 0. One compiled program serves any two numbers.
    """
    size = setup.config.batch_size
    full, rest = divmod(len(order), size)

    def step(number: jax.Array | int, carry: Carry, size: int = size) -> Carry:
        state, losses = carry
        batch = lax.dynamic_slice_in_dim(order, number * setup.config.batch_size, size)
        state, tensors, _ = train_step(setup, state, *select(setup, shard, words, labels, batch))
        return state, losses.at[number].set(tensors["loss"])

    losses = jnp.zeros_like(order, setup.config.dtype, shape=full + bool(rest))  # varies over a mesh as the order does
    carry: Carry = state, losses
    if full:
        carry = lax.fori_loop(first, jnp.minimum(last, full), step, carry)
    if rest:
        carry = lax.cond(last > full, lambda carry: step(full, carry, rest), lambda carry: carry, carry)
    return carry


def trace_step(
    setup: Setup, shard: Shard, state: TrainState, words: jax.Array, labels: jax.Array, batch: jax.Array
) -> tuple[TrainState, dict[str, jax.Array], Params]:
    """Runs `train_step` on the examples `batch` (b,) of the training set."""
    return train_step(setup, state, *select(setup, shard, words, labels, batch))


def select(
    setup: Setup, shard: Shard, words: jax.Array, labels: jax.Array, batch: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the images (b, pixels) and labels (b,) of the examples `batch` (b,)."""
    batch = shard(batch)
    return unpack(gather(words, batch), setup.widths[0]), gather(labels, batch)


def evaluate(setup: Setup, shard: Shard, params: Params, chunks: jax.Array, labels: jax.Array) -> jax.Array:
    """Evaluates the images of `in_chunks` with their labels (n,); returns one array, which `evaluation` takes apart."""
    logits = lax.map(lambda images: eval_step(setup, params, shard(images)), chunks)
    logits = logits.reshape(-1, logits.shape[-1])[: len(labels)]  # without what fills the last chunk
    predictions = logits.argmax(axis=-1)
    others = jnp.where(jax.nn.one_hot(predictions, logits.shape[-1], dtype=bool), -jnp.inf, logits)
    margins = logits.max(axis=-1) - others.max(axis=-1)
    parts = cross_entropy(logits, labels).per_example, margins, predictions, (logits > 0).any(axis=0)
    return jnp.concatenate([part.astype(logits.dtype) for part in parts])


def evaluation(values: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int32]) -> Evaluation:
    """Takes apart what `evaluate` returned for the examples of these `labels`."""
    n = len(labels)
    losses, margins, predictions, positive = np.split(values, [n, 2 * n, 3 * n])
    return Evaluation(losses, predictions.astype(np.int32), labels, positive.astype(bool), margins)


def in_chunks(images: npt.NDArray[np.uint8], shares: int) -> npt.NDArray[np.uint8]:
    """Rows (n, pixels) as (chunks, rows, pixels), of which `shares` devices have as many each; zeros fill the last."""
    chunks = -(-len(images) // (EVALUATED_AT_ONCE * shares))
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
