"""The MLP as a Flax NNX module."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, lecun_normal, variance_scaling, zeros

from jax_mlp.device import product_precision
from mlp_workload.config import Config
from mlp_workload.initial import Initialization
from mlp_workload.interface import activation as activation_name
from mlp_workload.interface import pre_activation

Activation = Literal["relu", "leaky_relu", "none"]
Params = nnx.State[Any, Any]
"""What `nnx.split` makes of the module besides its graph."""


def leaky_relu(x: jax.Array, negative_slope: float = 0.01) -> jax.Array:
    """x where x > 0, else negative_slope * x, elementwise.

    The slope at exactly 0 is `negative_slope`, as in torch; `jax.nn.leaky_relu` has 1 there.
    """
    return jnp.where(x > 0, x, negative_slope * x)


ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": leaky_relu,
    "none": lambda x: x,
}


class Linear(nnx.Module):
    """Computes x W^T + b, (batch, fan_in) to (batch, fan_out), with W stored as (fan_out, fan_in).

    That is torch's layout, the transpose of `nnx.Linear`'s. A CPU computes its products faster (`docs/performance.md`),
    and parameters need no transpose on their way in and out. The initial numbers are those of `nnx.Linear`.
    """

    def __init__(
        self, fan_in: int, fan_out: int, initialization: Initialization, dtype: Any, precision: Any, rngs: nnx.Rngs
    ) -> None:
        weight = kernel_init(initialization)(rngs.params(), (fan_in, fan_out), dtype)
        self.weight = nnx.Param(weight.T)
        self.bias = nnx.Param(bias_init(initialization, fan_in)(rngs.params(), (fan_out,), dtype))
        self.precision = precision

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.matmul(x, self.weight.get_value().T, precision=self.precision) + self.bias.get_value()[None]


class MLP(nnx.Module):
    """Linear layers with an activation behind each; (batch, widths[0]) to logits (batch, widths[-1]).

    Matrix products have `precision`, by default IEEE. Flax's default initialiser is `flax_linear`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: Activation,
        logits_activation: Activation,
        initialization: Initialization,
        dtype: Any,
        rngs: nnx.Rngs,
        precision: Any = jax.lax.Precision.HIGHEST,
    ) -> None:
        self.layers = nnx.List(
            Linear(fan_in, fan_out, initialization, dtype, precision, rngs) for fan_in, fan_out in pairwise(widths)
        )
        self.activations = [activation] * (len(widths) - 2) + [logits_activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        *_, (_, logits) = self.intermediates(x)
        return logits

    def intermediates(self, x: jax.Array) -> Iterator[tuple[str, jax.Array]]:
        """Each layer's pre-activation and activation, by the names of `twincheck.trace`; the logits come last."""
        for index, (layer, activation) in enumerate(zip(self.layers, self.activations, strict=True)):
            x = layer(x)
            yield pre_activation(index), x
            x = ACTIVATIONS[activation](x)
            yield activation_name(index, len(self.layers)), x


def build_model(config: Config, widths: Sequence[int], seed: int | jax.Array | None = None) -> MLP:
    """The model of a run, with initial weights drawn from its seed, or from another one."""
    return MLP(
        widths,
        config.activation,
        config.logits_activation,
        config.initialization,
        jnp.dtype(config.dtype),
        nnx.Rngs(jax.random.key(config.seed if seed is None else seed)),
        product_precision(config),
    )


def kernel_init(initialization: Initialization) -> Initializer:
    """For a kernel (fan_in, fan_out); distributions as `mlp_workload.initial` defines them."""
    match initialization:
        case "torch_linear":  # uniform has bound sqrt(3 scale / fan_in)
            return variance_scaling(1 / 3, "fan_in", "uniform")
        case "kaiming_normal":  # "normal", unlike he_normal's "truncated_normal", is not cut off
            return variance_scaling(2.0, "fan_in", "normal")
        case "flax_linear":
            return lecun_normal()


def bias_init(initialization: Initialization, fan_in: int) -> Initializer:
    """For a bias (fan_out,), whose own shape does not tell the layer's fan_in."""
    if initialization != "torch_linear":
        return zeros
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: Any, dtype: Any = None, out_sharding: Any = None) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
