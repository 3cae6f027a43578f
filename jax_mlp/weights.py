"""Parameters of the Flax module to and from their neutral names; the one transpose is here."""

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
    """Sets the module's parameters to copies of `parameters`, in the module's dtype. Names and shapes must fit.

    NumPy copies them, because on the CPU a JAX array can lie in NumPy's or torch's memory and would change with it;
    JAX's own `copy=True` is asynchronous, so that a change right after the call can still get in.
    """
    layers = {
        index: {
            "kernel": jnp.asarray(np.array(parameters[f"layers.{index}.weight"].T, layer.param_dtype, order="C")),
            "bias": jnp.asarray(np.array(parameters[f"layers.{index}.bias"], layer.param_dtype)),
        }
        for index, layer in enumerate(model.layers)
    }
    nnx.update(model, {"layers": layers})
