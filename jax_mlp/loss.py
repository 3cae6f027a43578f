"""Cross-entropy of logits."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mlp_workload.entropy import check_labels


@dataclass(frozen=True)
class Loss:
    """Losses per example (batch,), in nats, and their sum and mean."""

    per_example: jax.Array

    @property
    def sum(self) -> jax.Array:
        return self.per_example.sum()

    @property
    def count(self) -> int:
        return self.per_example.shape[0]

    @property
    def mean(self) -> jax.Array:
        return self.sum / self.count


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> Loss:
    """Returns -sum_k t_k log softmax(logits)_k for logits (batch, classes), t = (1 - s) onehot(label) + s / classes.

    Equals `torch.nn.functional.cross_entropy`. Raises `ValueError` unless there is one integer label per example, and,
    like torch, if a label is outside 0 .. classes-1. Inside `jit` such an example's loss is nan instead.
    """
    classes = logits.shape[-1]
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels {labels.shape}, {labels.dtype}, of logits {logits.shape}")
    if not isinstance(labels, jax.core.Tracer):
        check_labels(np.asarray(labels), classes)  # in NumPy: inside `jit` JAX would trace it
    outside = (labels < 0) | (labels >= classes)
    if label_smoothing == 0:
        per_example = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    else:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, classes, dtype=logits.dtype), label_smoothing)
        per_example = optax.softmax_cross_entropy(logits, targets)
    return Loss(jnp.where(outside, jnp.nan, per_example))  # optax takes -1 for the last class
