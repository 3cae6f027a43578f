"""The port, in Flax, and four mistakes that such a port often has."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
from flax import nnx

Mistake = Literal["none", "layer-norm-epsilon", "gelu-tanh", "nhwc-flatten", "batch-norm-momentum"]


class BatchNorm(nnx.BatchNorm):
    """With torch's running variance, for which a batch is a sample: n / (n - 1) times the batch's own variance."""

    def __call__(self, x: Any, *arguments: Any, **options: Any) -> Any:
        before = self.var.get_value()
        y = super().__call__(x, *arguments, **options)
        if (after := self.var.get_value()) is not before:  # in training
            kept, n = self.momentum * before, x.size // x.shape[-1]
            self.var.set_value(kept + (after - kept) * n / (n - 1))
        return y


class Network(nnx.Module):
    """Images (batch, 28, 28, 1) to logits (batch, 10). By default it computes what torch's does."""

    def __init__(
        self,
        layer_norm_epsilon: float = 1e-5,  # Flax's default is 1e-6
        gelu_approximate: bool = False,  # JAX's default is True
        flatten_channels_first: bool = True,  # as torch's images lie
        batch_norm_momentum: float = 0.9,  # torch's 0.1: Flax says what is kept, torch what is taken
    ) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 8, (3, 3), strides=3, padding="VALID", use_bias=False, rngs=rngs)
        self.batch_norm = BatchNorm(8, momentum=batch_norm_momentum, rngs=rngs)
        self.layer_norm = nnx.LayerNorm(8 * 9 * 9, epsilon=layer_norm_epsilon, rngs=rngs)
        self.linear = nnx.Linear(8 * 9 * 9, 10, rngs=rngs)
        self.gelu_approximate = gelu_approximate
        self.flatten_channels_first = flatten_channels_first

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.batch_norm(self.conv(x))
        x = jax.nn.gelu(x, approximate=self.gelu_approximate)
        if self.flatten_channels_first:
            x = x.transpose(0, 3, 1, 2)
        return self.linear(self.layer_norm(x.reshape(len(x), -1)))


MISTAKES: Mapping[Mistake, Mapping[str, Any]] = {
    "none": {},
    "layer-norm-epsilon": {"layer_norm_epsilon": 1e-6},
    "gelu-tanh": {"gelu_approximate": True},
    "nhwc-flatten": {"flatten_channels_first": False},
    "batch-norm-momentum": {"batch_norm_momentum": 0.1},
}
