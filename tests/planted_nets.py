"""Small pairs of models, equal but for one place between two layers, and how torch's weights get into the JAX one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

Place = Callable[..., Any]


class TorchNet(nn.Module):
    """before, place, after; the place is a function of the model and the values."""

    def __init__(self, before: nn.Module, place: Place, after: nn.Module, **layers: nn.Module) -> None:
        super().__init__()
        self.before, self.place, self.after = before, place, after
        for name, layer in layers.items():
            setattr(self, name, layer)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what `after` is given."""
        return self.place(self, self.before(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.between(x))


class JaxNet(nnx.Module):
    """The same in JAX, channels last."""

    def __init__(self, before: nnx.Module, place: Place, after: nnx.Module, **layers: Any) -> None:
        self.before, self.place, self.after = before, place, after
        for name, layer in layers.items():
            setattr(self, name, layer)

    def between(self, x: jax.Array) -> jax.Array:
        return self.place(self, self.before(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.after(self.between(x))


@dataclass(frozen=True)
class Pair:
    """A model in torch, the same one in JAX, and one with the difference that the cause says.

    Attributes:
        cause: name of the cause.
        torch: returns the model and its inputs.
        right: returns the JAX model that computes the same.
        wrong: returns the JAX model with the difference.
        float64: whether the pair is compared in float64.
    """

    cause: str
    torch: Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]
    right: Callable[[], nnx.Module]
    wrong: Callable[[], nnx.Module]
    float64: bool = False


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


Layers = Callable[[], dict[str, Any]]


def none() -> dict[str, Any]:
    return {}


def normal(*shape: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale


def dense(
    cause: str,
    place: Place,
    right: Place,
    wrong: Place,
    *,
    layers: Layers = none,
    right_layers: Layers = none,
    wrong_layers: Layers | None = None,
    shape: Sequence[int] = (6, 8),
    width: int = 8,
    scale: float = 3.0,
) -> Pair:
    """Returns a pair of two linear layers; the second takes `width` features."""

    def jax_net(place: Place, layers: Layers) -> nnx.Module:
        return JaxNet(nnx.Linear(shape[-1], 8, rngs=rngs()), place, nnx.Linear(width, 4, rngs=rngs()), **layers())

    return Pair(
        cause,
        lambda: (
            TorchNet(nn.Linear(shape[-1], 8), place, nn.Linear(width, 4), **layers()),
            (normal(*shape, scale=scale),),
        ),
        lambda: jax_net(right, right_layers),
        lambda: jax_net(wrong, right_layers if wrong_layers is None else wrong_layers),
    )


def words(
    cause: str,
    place: Place,
    right: Place,
    wrong: Place,
    *,
    layers: Layers = none,
    right_layers: Layers = none,
    wrong_layers: Layers | None = None,
    after: int = 8,
) -> Pair:
    """Returns a pair of an embedding of 8 features, for 3 sequences of 5 tokens, and a linear layer."""

    def jax_net(place: Place, layers: Layers) -> nnx.Module:
        return JaxNet(nnx.Embed(11, 8, rngs=rngs()), place, nnx.Linear(after, 4, rngs=rngs()), **layers())

    tokens = torch.tensor([[1, 4, 2, 9, 0], [10, 3, 3, 7, 5], [6, 2, 8, 1, 4]])
    return Pair(
        cause,
        lambda: (TorchNet(nn.Embedding(11, 8), place, nn.Linear(after, 4), **layers()), (tokens,)),
        lambda: jax_net(right, right_layers),
        lambda: jax_net(wrong, right_layers if wrong_layers is None else wrong_layers),
    )


def image(
    cause: str,
    place: Place,
    right: Place,
    wrong: Place,
    *,
    layers: Layers = none,
    right_layers: Layers = none,
    wrong_layers: Layers | None = None,
    size: int = 8,
) -> Pair:
    """Returns a pair of two 1 x 1 convolutions; torch's place is given (2, 4, size, size), JAX's channels last."""

    def jax_net(place: Place, layers: Layers) -> nnx.Module:
        before, after = (nnx.Conv(i, o, (1, 1), rngs=rngs()) for i, o in ((3, 4), (4, 2)))
        return JaxNet(before, place, after, **layers())

    return Pair(
        cause,
        lambda: (TorchNet(nn.Conv2d(3, 4, 1), place, nn.Conv2d(4, 2, 1), **layers()), (normal(2, 3, size, size),)),
        lambda: jax_net(right, right_layers),
        lambda: jax_net(wrong, right_layers if wrong_layers is None else wrong_layers),
    )


def layer(net: Any, x: Any) -> Any:
    """A place that is a layer of its own."""
    return net.layer(x)


def layers(kind: Callable[..., Any], *args: Any, **kwargs: Any) -> Layers:
    """Returns what builds the layer of such a place."""
    return lambda: {"layer": kind(*args, **kwargs)}


def flax_layers(kind: Callable[..., Any], *args: Any, **kwargs: Any) -> Layers:
    return lambda: {"layer": kind(*args, **kwargs, rngs=rngs())}


def elementwise(cause: str, torch_function: Place, right: Place, wrong: Place) -> Pair:
    return dense(
        cause,
        lambda net, x: torch_function(x),
        lambda net, x: right(x),
        lambda net, x: net.act(x),
        wrong_layers=lambda: {"act": wrong},
    )


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
