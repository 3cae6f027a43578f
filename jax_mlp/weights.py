"""Converts the parameters of the Flax module to and from their canonical names."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_mlp.model import MLP, Params
from mlp_workload.weights import Parameters


def to_canonical(params: Params) -> Parameters:
    """Returns copies of the module's parameters, as `layers.0.weight` (fan_out, fan_in) and `layers.0.bias`."""
    layers = sorted(nnx.to_pure_dict(params)["layers"].items())
    return {f"layers.{index}.{name}": np.array(layer[name]) for index, layer in layers for name in ("weight", "bias")}


def load_canonical(model: MLP, parameters: Parameters) -> None:
    """Sets the module's parameters to copies of `parameters`, in the module's dtype. Names and shapes must fit."""
    nnx.update(model, jax.tree.map(jnp.asarray, from_canonical(nnx.state(model), parameters)))


def from_canonical(like: Params, parameters: Parameters) -> Params:
    """Returns copies of `parameters` with the structure and dtypes of `like`, which may be abstract.

    Names and shapes must fit. The copies are made by NumPy. On the CPU a JAX array can share memory with NumPy or
    torch, and JAX's `copy=True` is asynchronous: a change right after the call could still get in.
    """
    new: Params = jax.tree.map(lambda leaf: leaf, like)  # new variables
    for index, layer in new["layers"].items():
        for name, leaf in layer.items():
            leaf.set_value(np.array(parameters[f"layers.{index}.{name}"], leaf.get_value().dtype))
    return new
