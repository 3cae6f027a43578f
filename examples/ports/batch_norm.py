"""Flax's BatchNorm with torch's running variance."""

from typing import Any

import jax
from flax import nnx


class BatchNorm(nnx.BatchNorm):
    """Keeps the unbiased variance of a batch of n values: n / (n - 1) times the one that it divides by."""

    def __call__(self, x: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
        kept = self.momentum * self.var[...]
        y: jax.Array = super().__call__(x, *arguments, **options)
        if not self.use_running_average:
            n = x.size // x.shape[-1]
            self.var[...] = kept + (self.var[...] - kept) * n / (n - 1)
        return y
