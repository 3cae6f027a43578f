"""Faults of the forward pass: activations, biases, the precision of products."""

from typing import Any

import numpy as np

from mlp_compare.parity.faults.fault import Fault, replaced, wrapped
from mlp_workload.config import LEAKY_RELU_SLOPE
from mlp_workload.data.shipped import PIXELS
from mlp_workload.weights import Parameters


def _dead_unit(parameters: Parameters) -> Parameters:
    """Makes unit 3 of the first layer exactly 0 for every example."""
    parameters["layers.0.weight"][3], parameters["layers.0.bias"][3] = 0, 0
    return parameters


def _torch_linear(edit: Any) -> Any:
    """Returns a plant that passes the arguments of torch's `linear` through `edit`; the result has x's dtype."""
    return wrapped(
        "torch.nn.functional:linear",
        lambda right, x, weight, bias=None: right(*edit(x, weight, bias)).to(x.dtype),
    )


def _jax_linear(edit: Any) -> Any:
    """Returns a plant that passes x and weight of each Flax layer through `edit`; the result has x's dtype."""

    def call(original: Any, layer: Any, x: Any) -> Any:
        product = (edit(x) @ edit(layer.weight[...]).T).astype(x.dtype)
        return product + layer.bias[...]

    return wrapped("jax_mlp.model:Linear.__call__", call)


def _jax_activation(activation: Any) -> Any:
    return replaced("jax_mlp.model:ACTIVATIONS", lambda original: original | {"leaky_relu": activation})


def _round_like_tf32(x: Any) -> Any:
    """Rounds float32 to the nearest number with 10 bits of fraction."""
    import jax
    import jax.numpy as jnp

    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    rounded = jax.lax.bitcast_convert_type((bits + 0x1000) & ~0x1FFF, jnp.float32)
    return x + jax.lax.stop_gradient(rounded - x)


def _scaled_bias(fan_in: int, fan_out: int, factor: float) -> Any:
    """Returns an edit that multiplies the bias of the layer of that shape by `factor`."""
    return lambda x, weight, bias: (x, weight, bias * factor if weight.shape == (fan_out, fan_in) else bias)


FAULTS = [
    Fault("activation left out on the logits", "torch", 1, "logits", flags={"last_activation": "none"}),
    Fault("slope 0.011", "jax", 1, "layers.0.activation", dtype="float32",
          plant=_jax_activation(lambda x: x * ((x > 0) + 0.011 * (x <= 0)))),
    Fault("ReLU for LeakyReLU", "torch", 1, "layers.0.activation", flags={"activation": "relu"}),
    Fault("slope 1 at exactly 0", "jax", 1, "layers.0.weight.grad", start=_dead_unit,
          plant=_jax_activation(lambda x: x * ((x >= 0) + LEAKY_RELU_SLOPE * (x < 0)))),
    Fault("a bias left out", "torch", 1, "layers.1.pre_activation", plant=_torch_linear(_scaled_bias(200, 200, 0.0))),
    Fault("a bias twice", "torch", 1, "layers.0.pre_activation", plant=_torch_linear(_scaled_bias(PIXELS, 200, 2.0))),
    Fault("weights rounded to float32 in a product of a float64 run", "torch", 1, "layers.0.pre_activation",
          plant=_torch_linear(lambda x, weight, bias: (x, weight.float().to(x.dtype), bias))),
    Fault("float32 products in a float64 run", "jax", 1, "layers.0.pre_activation",
          plant=_jax_linear(lambda x: x.astype(np.float32))),
    Fault("bfloat16 products", "jax", 1, "layers.0.pre_activation", dtype="float32",
          plant=_jax_linear(lambda x: x.astype("bfloat16"))),
    Fault("products rounded as in TF32", "jax", 1, "layers.0.pre_activation", dtype="float32",
          plant=_jax_linear(_round_like_tf32)),
]  # fmt: skip
