"""The port, in Flax: loads the weights that torch saved, and records the same pass."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from safetensors.numpy import load_file

from examples.port_your_model.common import Arguments, Mistake, batch
from examples.port_your_model.names import PARAMETERS, STATISTICS
from mlp_workload.cli.parse import run_command
from twincheck.record_jax import record


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
        options: Any = {"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        self.conv = nnx.Conv(1, 8, (3, 3), strides=3, padding="VALID", use_bias=False, **options)
        self.batch_norm = BatchNorm(8, momentum=batch_norm_momentum, **options)
        self.layer_norm = nnx.LayerNorm(8 * 9 * 9, epsilon=layer_norm_epsilon, **options)
        self.linear = nnx.Linear(8 * 9 * 9, 10, **options)
        self.gelu_approximate = gelu_approximate
        self.flatten_channels_first = flatten_channels_first

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.batch_norm(self.conv(x))
        x = jax.nn.gelu(x, approximate=self.gelu_approximate)
        self.sow(nnx.Intermediate, "gelu", x)
        if self.flatten_channels_first:
            x = x.transpose(0, 3, 1, 2)
        x = x.reshape(len(x), -1)
        self.sow(nnx.Intermediate, "flatten", x)
        return self.linear(self.layer_norm(x))


MISTAKES: Mapping[Mistake, Mapping[str, Any]] = {
    "none": {},
    "layer-norm-epsilon": {"layer_norm_epsilon": 1e-6},
    "gelu-tanh": {"gelu_approximate": True},
    "nhwc-flatten": {"flatten_channels_first": False},
    "batch-norm-momentum": {"batch_norm_momentum": 0.1},
}


def load(model: nnx.Module, weights: Mapping[str, Any]) -> None:
    """Sets all of the model's state, the running statistics too, from torch's `state_dict`."""
    state = nnx.state(model)
    for path, variable in nnx.to_flat_state(state):
        name, axes = (PARAMETERS | STATISTICS)[".".join(map(str, path))]
        variable.set_value(jnp.asarray(weights[name].transpose(np.argsort(axes))))
    nnx.update(model, state)


def main(arguments: Arguments) -> None:
    model = Network(**MISTAKES[arguments.mistake])
    load(model, load_file(arguments.weights))
    images, labels = batch()

    def loss(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    record(model, loss, jnp.asarray(images)[..., None]).save(arguments.trace)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    run_command("flax_model", Arguments, main)
