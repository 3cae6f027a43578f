"""Parameters of the Flax module to and from their neutral names; the one transpose is here."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_mlp.model import MLP, Params
from mlp_workload.weights import Parameters


def to_neutral(params: Params) -> Parameters:
    """Copies of the module's parameters; kernels (fan_in, fan_out) become weights (fan_out, fan_in)."""
    parameters: Parameters = {}
    for index, layer in sorted(nnx.to_pure_dict(params)["layers"].items()):
        parameters[f"layers.{index}.weight"] = np.array(layer["kernel"]).T.copy()
        parameters[f"layers.{index}.bias"] = np.array(layer["bias"])
    return parameters


def load_neutral(model: MLP, parameters: Parameters) -> None:
    """Sets the module's parameters to copies of `parameters`, in the module's dtype. Names and shapes must fit."""
    nnx.update(model, jax.tree.map(jnp.asarray, from_neutral(nnx.state(model), parameters)))


def from_neutral(like: Params, parameters: Parameters) -> Params:
    """Copies of `parameters` as `like`, which may be abstract, has structure and dtypes. Names and shapes must fit.

    The copies are NumPy's: on the CPU a JAX array can lie in NumPy's or torch's memory and would change with it, and
    JAX's own `copy=True` is asynchronous, so that a change right after the call can still get in.
    """
    new: Params = jax.tree.map(lambda leaf: leaf, like)  # variables of its own
    for index, layer in new["layers"].items():
        kernel, bias = parameters[f"layers.{index}.weight"].T, parameters[f"layers.{index}.bias"]
        for name, array in (("kernel", kernel), ("bias", bias)):
            layer[name].set_value(np.array(array, layer[name].get_value().dtype))
    return new
