"""The form in which each port's `pair.py` hands over its models."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import torch
from flax import nnx

Dtype = Literal["float32", "float64"]  # float64 needs JAX's `jax_enable_x64`


class JaxSide(NamedTuple):
    model: Any
    """The model, or (module, variables) where the framework keeps them apart."""
    inputs: tuple[jax.Array, ...]
    call: Callable[..., jax.Array]
    """Takes the model and the inputs; returns the output."""


class Pair(NamedTuple):
    torch: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    jax: dict[str, JaxSide]
    """By the kind of model: "nnx", "linen", "equinox" or "haiku"."""


def perturbed(model: torch.nn.Module, dtype: Dtype) -> torch.nn.Module:
    """Returns the model in evaluation mode and in `dtype`, without constant weights.

    Biases of 0 and scales of 1 hide mistakes.
    """
    with torch.no_grad():
        for weights in model.parameters():
            if weights.min() == weights.max():
                weights.add_(0.2 * torch.randn_like(weights))
    return model.to(getattr(torch, dtype)).eval()


def cast(model: Any, dtype: Dtype) -> Any:
    """Returns the pytree, or the NNX module in evaluation mode, with its floating-point arrays in `dtype`."""
    if isinstance(model, nnx.Module):
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.Embed):
                module.dtype = jnp.dtype(dtype)  # by default the one that it was made in
        nnx.update(model, cast(nnx.state(model), dtype))
        model.eval()
        return model

    def cast_array(x: Any) -> Any:
        return x.astype(dtype) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast_array, model)
