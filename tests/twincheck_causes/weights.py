"""Loads a small PyTorch model's weights into the JAX model with the same names of layers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn


def load(model: nn.Module, net: nnx.Module) -> None:
    """Copies the parameters and buffers of each layer."""
    for path, layer in model.named_modules():
        target: Any = net
        for part in filter(None, path.split(".")):
            target = getattr(target, part)
        values = {
            name: value.detach().numpy().copy()
            for name, value in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
        }
        for name, value in values.items():
            variable = getattr(target, _flax_name(layer, name), None)
            if variable is not None:
                variable[...] = jnp.asarray(_flax_layout(layer, name, value), variable[...].dtype)


def _flax_name(layer: nn.Module, name: str) -> str:
    if name == "weight":
        return "embedding" if isinstance(layer, nn.Embedding) else "kernel" if _is_product(layer) else "scale"
    return {"running_mean": "mean", "running_var": "var"}.get(name, name)


def _is_product(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd))


def _flax_layout(layer: nn.Module, name: str, value: np.ndarray) -> np.ndarray:
    if name != "weight" or not _is_product(layer):
        return value
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return np.flip(np.moveaxis(value, (0, 1), (-2, -1)), tuple(range(value.ndim - 2)))
    return np.moveaxis(value, (0, 1), (-1, -2))


def to_jax(values: Sequence[torch.Tensor]) -> list[jax.Array]:
    """Returns inputs of the JAX model: images channels last."""
    return [jnp.asarray(channels_last(value)) for value in values]


def channels_last(value: torch.Tensor) -> np.ndarray:
    array = value.detach().numpy().copy()
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def modules(net: nnx.Module) -> list[nnx.Module]:
    return [module for _, module in nnx.iter_modules(net)]
