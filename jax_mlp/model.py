"""The MLP as a Flax NNX module."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, lecun_normal, variance_scaling, zeros

from jax_mlp.device import product_precision
from mlp_workload.config import LEAKY_RELU_SLOPE, Activation, Config
from mlp_workload.initial import Initialization
from mlp_workload.interface import activation as activation_name
from mlp_workload.interface import pre_activation

Params = nnx.State[Any, Any]
"""The module's parameters, as `nnx.split` returns them beside its graph."""


def leaky_relu(x: jax.Array, negative_slope: float = LEAKY_RELU_SLOPE) -> jax.Array:
    """Returns x if x > 0, else negative_slope * x, elementwise.

    The gradient at exactly 0 is `negative_slope`, as in torch; that of `jax.nn.leaky_relu` is 1.
    """
    return jnp.where(x > 0, x, negative_slope * x)


ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": leaky_relu,
    "none": lambda x: x,
}


class Linear(nnx.Module):
    """Computes x W^T + b, (batch, fan_in) to (batch, fan_out), with W stored as (fan_out, fan_in).

    This is torch's layout, the transpose of `nnx.Linear`'s: faster on a CPU (`docs/performance.md`), and parameters
    are read and written without a transpose. The initial numbers are those of `nnx.Linear`.
    """

    def __init__(self, config: Config, fan_in: int, fan_out: int, rngs: nnx.Rngs) -> None:
        dtype = jnp.dtype(config.dtype)
        weight = kernel_init(config.initialization)(rngs.params(), (fan_in, fan_out), dtype)
        self.weight = nnx.Param(weight.T)
        self.bias = nnx.Param(bias_init(config.initialization, fan_in)(rngs.params(), (fan_out,), dtype))
        self.precision = product_precision(config)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.matmul(x, self.weight.get_value().T, precision=self.precision) + self.bias.get_value()[None]


class MLP(nnx.Module):
    """Linear layers, each followed by an activation; maps (batch, widths[0]) to logits (batch, widths[-1]).

    Matrix products have the run's precision. Flax's own default initialization is `flax_linear`.
    """

    def __init__(self, config: Config, widths: Sequence[int], rngs: nnx.Rngs) -> None:
        self.layers = nnx.List(Linear(config, fan_in, fan_out, rngs) for fan_in, fan_out in pairwise(widths))
        self.activations = config.activations(len(self.layers))

    def __call__(self, x: jax.Array) -> jax.Array:
        *_, (_, logits) = self.intermediates(x)
        return logits

    def intermediates(self, x: jax.Array) -> Iterator[tuple[str, jax.Array]]:
        """Yields the pre-activation and activation of each layer with their names in a trace; the logits come last."""
        for index, (layer, activation) in enumerate(zip(self.layers, self.activations, strict=True)):
            x = layer(x)
            yield pre_activation(index), x
            x = ACTIVATIONS[activation](x)
            yield activation_name(index, len(self.layers)), x


def build_model(config: Config, widths: Sequence[int], seed: int | jax.Array | None = None) -> MLP:
    """Returns the model of a run, with initial weights drawn from `seed`, by default the run's."""
    return MLP(config, widths, nnx.Rngs(jax.random.key(config.seed if seed is None else seed)))


def kernel_init(initialization: Initialization) -> Initializer:
    """Returns the initializer of a kernel (fan_in, fan_out); `mlp_workload.initial` defines the distributions."""
    match initialization:
        case "torch_linear":  # the uniform bound is sqrt(3 scale / fan_in)
            return variance_scaling(1 / 3, "fan_in", "uniform")
        case "kaiming_normal":  # "normal", unlike he_normal's "truncated_normal", is not cut off
            return variance_scaling(2.0, "fan_in", "normal")
        case "flax_linear":
            return lecun_normal()


def bias_init(initialization: Initialization, fan_in: int) -> Initializer:
    """Returns the initializer of a bias (fan_out,) of a layer with `fan_in` inputs."""
    if initialization != "torch_linear":
        return zeros
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: Any, dtype: Any = None, out_sharding: Any = None) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
