"""Cross-entropy of logits."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mlp_workload.entropy import check_labels


@dataclass(frozen=True)
class Loss:
    """Losses per example (batch,) in nats; what is made of them is said by name, never by an argument."""

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
    """-sum_k t_k log softmax(logits)_k with t = (1 - s) onehot(label) + s / classes, from logits (batch, classes).

    The same as `torch.nn.functional.cross_entropy`. Raises `ValueError` on a label (batch,) outside 0 .. classes-1, as
    torch does, where labels are concrete; inside `jit` values can't be looked at, and the example's loss is nan.
    Raises `ValueError` unless there is one integer for each example.
    """
    classes = logits.shape[-1]
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels {labels.shape}, {labels.dtype}, of logits {logits.shape}")
    if not isinstance(labels, jax.core.Tracer):
        check_labels(np.asarray(labels), classes)  # a comparison in JAX would be traced inside `jit`
    outside = (labels < 0) | (labels >= classes)
    if label_smoothing == 0:
        per_example = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    else:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, classes, dtype=logits.dtype), label_smoothing)
        per_example = optax.softmax_cross_entropy(logits, targets)
    return Loss(jnp.where(outside, jnp.nan, per_example))  # optax takes -1 for the last class
