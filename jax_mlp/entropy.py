"""Entropy, cross-entropy and KL divergence in `jax.numpy`; definitions as in `mlp_workload.entropy`.

On the CPU JAX treats subnormal numbers as 0, so a float32 q under 1.2e-38 counts as 0. Torch keeps them.
"""

import jax
import numpy as np
from jax.scipy.special import xlogy

from mlp_workload.entropy import NATS_PER_UNIT, Base, check_distributions


def entropy(p: jax.Array, base: Base = "bits", check: bool = True) -> jax.Array:
    """Returns H(p) = -sum p log p of distributions (..., classes), as (...), in the dtype of p.

    Raises `ValueError` if p is not a distribution, unless `check` is False. Inside `jit` pass `check=False`.
    """
    return cross_entropy(p, p, base, check)


def cross_entropy(p: jax.Array, q: jax.Array, base: Base = "bits", check: bool = True) -> jax.Array:
    """Returns H(p, q) = -sum p log q of distributions (..., classes), as (...). Raises as `entropy` does."""
    _check(check, p=p, q=q)
    return (0 - xlogy(p, q).sum(axis=-1)) / NATS_PER_UNIT[base]


def kl_divergence(p: jax.Array, q: jax.Array, base: Base = "bits", check: bool = True) -> jax.Array:
    """Returns KL(p || q) = sum p log(p / q) of distributions (..., classes), as (...). Raises as `entropy` does."""
    _check(check, p=p, q=q)
    return (xlogy(p, p) - xlogy(p, q)).sum(axis=-1) / NATS_PER_UNIT[base]


def _check(check: bool, **distributions: jax.Array) -> None:
    if check:
        check_distributions(**{name: np.asarray(values, np.float64) for name, values in distributions.items()})
