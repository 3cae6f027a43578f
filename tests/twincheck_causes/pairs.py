"""The smallest pair of models for each cause: a layer, the place where they differ, a layer."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import nnx
from jax.nn import gelu
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


# Attention, written out on both sides: two heads of size 4.


def torch_heads(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(*x.shape[:-1], 2, 4).transpose(-2, -3)


def torch_attention(x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    q, k, v = torch_heads(x), torch_heads(x.flip(-1)), torch_heads(x)
    return F.scaled_dot_product_attention(q, k, v, **kwargs).transpose(-2, -3).reshape(x.shape)


def jax_heads(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    heads = (*x.shape[:-1], 2, 4)
    return x.reshape(heads), x[..., ::-1].reshape(heads), x.reshape(heads)


def jax_attention(x: jax.Array, **kwargs: Any) -> jax.Array:
    return jax.nn.dot_product_attention(*jax_heads(x), **kwargs).reshape(x.shape)


def written_attention(x: jax.Array, scale: float, mask: Any = None, fill: Any = None) -> jax.Array:
    q, k, v = jax_heads(x)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale
    if mask is not None:
        scores = jnp.where(mask, scores, fill)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v).reshape(x.shape)


KEPT = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], bool)[:, None, None, :]
"""The positions that attention may look at."""
ROW_HIDDEN = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)[:, None, None, :]


def torch_added_mask(net: Any, x: torch.Tensor) -> torch.Tensor:
    added = torch.where(torch.tensor(ROW_HIDDEN), 0.0, -1e4) * torch.ones(3, 1, 5, 5)
    return torch_attention(x, attn_mask=added)


def torch_filled_mask(net: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = torch_heads(x), torch_heads(x.flip(-1)), torch_heads(x)
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~torch.tensor(ROW_HIDDEN), torch.finfo(x.dtype).min)
    return (scores.softmax(-1) @ v).transpose(-2, -3).reshape(x.shape)


# Rotary embeddings of shape (batch, length, size).


def angles(length: int, size: int, xp: Any) -> Any:
    return xp.arange(length)[:, None] * 100.0 ** (-xp.arange(size // 2) / (size // 2))[None]


def torch_rotate_pairs(x: torch.Tensor) -> torch.Tensor:
    a = angles(x.shape[1], x.shape[2], torch)
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(a), a)
    return torch.view_as_real(turned).reshape(x.shape)


def torch_rotate_halves(x: torch.Tensor) -> torch.Tensor:
    a = torch.cat([angles(x.shape[1], x.shape[2], torch)] * 2, -1)
    first, second = x.chunk(2, -1)
    return x * a.cos() + torch.cat([-second, first], -1) * a.sin()


def rotate_half(x: jax.Array) -> jax.Array:
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-second, first], axis=-1)


def apply_rotary(x: jax.Array) -> jax.Array:
    a = angles(x.shape[1], x.shape[2], jnp)
    a = jnp.concatenate([a, a], axis=-1)[None].astype(x.dtype)
    return x * jnp.cos(a) + rotate_half(x) * jnp.sin(a)


def apply_rotary_pairs(x: jax.Array) -> jax.Array:
    a = angles(x.shape[1], x.shape[2], jnp)[None].astype(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    turned = (even * jnp.cos(a) - odd * jnp.sin(a), even * jnp.sin(a) + odd * jnp.cos(a))
    return jnp.stack(turned, axis=-1).reshape(x.shape)


def rotary_in_bfloat16(x: jax.Array) -> jax.Array:
    a = angles(x.shape[1], x.shape[2], jnp).astype(jnp.bfloat16)
    a = jnp.concatenate([a, a], axis=-1)[None]
    return x * jnp.cos(a).astype(x.dtype) + rotate_half(x) * jnp.sin(a).astype(x.dtype)


def torch_grouped(x: torch.Tensor, tiled: bool) -> torch.Tensor:
    """Four query heads of size 2 to two heads of keys."""
    heads = x.reshape(*x.shape[:-1], 4, 2).transpose(1, 2)
    few = heads[:, :2] * 2
    more = few.repeat(1, 2, 1, 1) if tiled else few.repeat_interleave(2, 1)
    return F.scaled_dot_product_attention(heads, more, more).transpose(1, 2).reshape(x.shape)


def jax_grouped(x: jax.Array, tiled: bool) -> jax.Array:
    heads = x.reshape(*x.shape[:-1], 4, 2)
    few = heads[:, :, :2] * 2
    more = jnp.tile(few, (1, 1, 2, 1)) if tiled else jnp.repeat(few, 2, axis=2)
    return jax.nn.dot_product_attention(heads, more, more).reshape(x.shape)


def torch_gates(net: Any, x: torch.Tensor) -> torch.Tensor:
    i, f, g, o = x.chunk(4, -1)
    return torch.cat([i.sigmoid() * g.tanh(), f.sigmoid(), o.sigmoid()], -1)


def jax_gates(net: Any, x: jax.Array, order: Sequence[int] = (0, 1, 2, 3)) -> jax.Array:
    parts = jnp.split(x, 4, axis=-1)
    i, f, g, o = (parts[n] for n in order)
    return jnp.concatenate([jax.nn.sigmoid(i) * jnp.tanh(g), jax.nn.sigmoid(f), jax.nn.sigmoid(o)], axis=-1)


def torch_three_gates(net: Any, x: torch.Tensor) -> torch.Tensor:
    r, z, n = x[..., :6].chunk(3, -1)
    return torch.cat([r.sigmoid() * n, z.sigmoid()], -1)


def jax_three_gates(net: Any, x: jax.Array, swapped: bool = False) -> jax.Array:
    first, second, n = jnp.split(x[..., :6], 3, axis=-1)
    r, z = (second, first) if swapped else (first, second)
    return jnp.concatenate([jax.nn.sigmoid(r) * n, jax.nn.sigmoid(z)], axis=-1)


class UnbiasedNorm(nn.Module):
    """Layer norm that divides by the unbiased standard deviation, or with epsilon outside of the root."""

    def __init__(self, size: int, unbiased: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.unbiased = (
            nn.Parameter(torch.ones(size)),
            nn.Parameter(torch.zeros(size)),
            unbiased,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread = x.std(-1, keepdim=True, unbiased=self.unbiased) + 1e-3
        return self.weight * (x - x.mean(-1, keepdim=True)) / spread + self.bias


class WrittenNorm(nnx.Module):
    """The same in JAX."""

    def __init__(self, size: int, ddof: int, *, rngs: nnx.Rngs) -> None:
        self.scale, self.bias, self.ddof = nnx.Param(jnp.ones(size)), nnx.Param(jnp.zeros(size)), ddof

    def __call__(self, x: jax.Array) -> jax.Array:
        unscaled = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True, ddof=self.ddof) + 1e-3)
        shape = (1,) * (x.ndim - 1) + (-1,)
        return unscaled * self.scale[...].reshape(shape) + self.bias[...].reshape(shape)


class GemmaNorm(nn.Module):
    """RMSNorm with the scale 1 + weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + self.weight)


class WrittenGemmaNorm(nnx.Module):
    def __init__(self, size: int, *, rngs: nnx.Rngs) -> None:
        self.scale = nnx.Param(jnp.ones(size))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * (1 + self.scale[...])[None]


def small(function: Place) -> Place:
    """Makes the values small, so that an epsilon matters."""
    return lambda net, x: function(net, x * 1e-2)


def pool(kind: str, **kwargs: Any) -> Place:
    return lambda net, x: getattr(nnx, kind)(x, (3, 3), strides=(2, 2), **kwargs)


def resized(method: str, size: int, **kwargs: Any) -> Place:
    return lambda net, x: jax.image.resize(x, (x.shape[0], size, size, x.shape[-1]), method, **kwargs)


def weighted(matrix: Sequence[Sequence[float]]) -> Place:
    """Resizes both axes of an image by a matrix."""
    return lambda net, x: jnp.einsum("ai,bj,nijc->nabc", *(jnp.asarray(matrix, x.dtype),) * 2, x)


def corner_matrix(old: int, new: int) -> np.ndarray:
    at = np.arange(new) * (old - 1) / (new - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(old)), 0)


def conv(cause: str, torch_conv: dict[str, Any], right: dict[str, Any], wrong: dict[str, Any], kernel: int = 3) -> Pair:
    return image(
        cause,
        layer,
        layer,
        layer,
        layers=layers(nn.Conv2d, 4, 4, kernel, **torch_conv),
        right_layers=flax_layers(nnx.Conv, 4, 4, (kernel, kernel), **right),
        wrong_layers=flax_layers(nnx.Conv, 4, 4, (kernel, kernel), **wrong),
    )


class Unflipped(nnx.ConvTranspose):
    """Takes torch's kernel as it is, where Flax's is flipped in space."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        kernel = jnp.flip(self.kernel[...], (0, 1))
        out = jax.lax.conv_transpose(inputs, kernel, self.strides, self.padding)
        return out + self.bias[...].reshape(1, 1, 1, -1)


def norm(cause: str, torch_norm: Layers, right: Layers, wrong: Layers, tiny: bool = True) -> Pair:
    place = small(layer) if tiny else layer
    return dense(cause, place, place, place, layers=torch_norm, right_layers=right, wrong_layers=wrong)


def epsilon(cause: str, eps: float, wrong: float) -> Pair:
    return norm(
        cause,
        layers(nn.LayerNorm, 8, eps=eps),
        flax_layers(nnx.LayerNorm, 8, epsilon=eps),
        flax_layers(nnx.LayerNorm, 8, epsilon=wrong),
    )


def filtered(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.vmap(functools.partial(jnp.convolve, mode="same"), (0, None))(x, kernel)


FILTER = [0.5, -1.0, 2.0]
LABELS = [0, 3, 1, 2, 3, 0]


def torch_loss(net: Any, x: torch.Tensor) -> torch.Tensor:
    smooth = F.cross_entropy(x, torch.tensor(LABELS), reduction="none", label_smoothing=0.1)
    return smooth[:, None].expand(-1, 8)


def jax_loss(smooth: bool) -> Place:
    def place(net: Any, x: jax.Array) -> jax.Array:
        labels = jnp.asarray(LABELS)
        if smooth:
            loss = optax.softmax_cross_entropy(x, optax.smooth_labels(jax.nn.one_hot(labels, 8), 0.1))
        else:
            loss = optax.softmax_cross_entropy_with_integer_labels(x, labels)
        return jnp.broadcast_to(loss[:, None], x.shape)

    return place


def in_half(x: jax.Array, up: bool) -> jax.Array:
    half = x.astype(jnp.float16)
    return jax.nn.softmax(half.astype(jnp.float32) if up else half, axis=-1).astype(jnp.float16).astype(x.dtype)


LINEAR8 = layers(nn.Linear, 8, 8)


def flax_linear(**kwargs: Any) -> Layers:
    return flax_layers(nnx.Linear, 8, 8, **kwargs)


def same_layer(cause: str, wrong: dict[str, Any]) -> Pair:
    return dense(
        cause, layer, layer, layer, layers=LINEAR8, right_layers=flax_linear(), wrong_layers=flax_linear(**wrong)
    )


ACTIVATION_PAIRS = (
    elementwise("gelu-tanh", F.gelu, lambda x: gelu(x, approximate=False), gelu),
    dense(
        "gelu-erf",
        lambda net, x: F.gelu(x, approximate="tanh"),
        lambda net, x: nnx.gelu(x),
        lambda net, x: nnx.gelu(x, approximate=False),
    ),
    dense(
        "gelu-quick",
        lambda net, x: x * torch.sigmoid(1.702 * x),
        lambda net, x: x * jax.nn.sigmoid(1.702 * x),
        lambda net, x: jax.nn.gelu(x),
    ),
    dense(
        "leaky-slope",
        lambda net, x: F.leaky_relu(x),
        lambda net, x: jax.nn.leaky_relu(x),
        lambda net, x: jax.nn.leaky_relu(x, 0.3),
    ),
    elementwise(
        "leaky-slope-0.2", lambda x: F.leaky_relu(x, 0.2), lambda x: jax.nn.leaky_relu(x, 0.2), jax.nn.leaky_relu
    ),
    elementwise("activation-relu", F.relu, jax.nn.relu, functools.partial(jax.nn.gelu, approximate=True)),
    elementwise("activation-gelu", F.gelu, lambda x: jax.nn.gelu(x, approximate=False), jax.nn.relu),
    elementwise("activation-silu", F.silu, jax.nn.silu, gelu),
    elementwise("activation-leaky-relu", F.leaky_relu, jax.nn.leaky_relu, jax.nn.relu),
    elementwise("activation-elu", F.elu, jax.nn.elu, jax.nn.relu),
    elementwise("activation-selu", F.selu, jax.nn.selu, jax.nn.elu),
    elementwise("activation-mish", F.mish, jax.nn.mish, jax.nn.swish),
    elementwise("activation-softplus", F.softplus, jax.nn.softplus, jax.nn.relu),
    elementwise("activation-sigmoid", F.sigmoid, jax.nn.sigmoid, jnp.tanh),
    elementwise("activation-tanh", F.tanh, jnp.tanh, jax.nn.sigmoid),
    elementwise("activation-hard-swish", F.hardswish, jax.nn.hard_swish, jax.nn.silu),
    elementwise("activation-hard-sigmoid", F.hardsigmoid, jax.nn.hard_sigmoid, jax.nn.sigmoid),
    elementwise(
        "activation-relu6", lambda x: F.relu6(x * 9), lambda x: jax.nn.relu6(x * 9), lambda x: jax.nn.relu(x * 9)
    ),
    elementwise("activation-extra", lambda x: x, lambda x: x, jax.nn.relu),
)
SOFTMAX_PAIRS = (
    dense(
        "softmax-float32",
        lambda net, x: x.half().float().softmax(-1).half().float(),
        lambda net, x: in_half(x, True),
        lambda net, x: in_half(x, False),
    ),
    dense(
        "softmax-axis",
        lambda net, x: x.softmax(1),
        lambda net, x: jax.nn.softmax(x, axis=1),
        lambda net, x: jax.nn.softmax(x),
        shape=(3, 5, 8),
    ),
    dense(
        "softmax-last-axis",
        lambda net, x: x.softmax(-1),
        lambda net, x: jax.nn.softmax(x),
        lambda net, x: jax.nn.softmax(x, axis=1),
        shape=(3, 5, 8),
    ),
    elementwise("softmax-log", lambda x: x.log_softmax(-1), jax.nn.log_softmax, jax.nn.softmax),
    elementwise("log-softmax", lambda x: x.softmax(-1), jax.nn.softmax, jax.nn.log_softmax),
    elementwise("softmax-extra", lambda x: x, lambda x: x, jax.nn.softmax),
    dense(
        "std-ddof",
        lambda net, x: x / x.std(-1, keepdim=True),
        lambda net, x: x / jnp.std(x, -1, keepdims=True, ddof=1),
        lambda net, x: x / x.std(-1, keepdims=True),
    ),
    dense(
        "std-biased",
        lambda net, x: x / x.var(-1, keepdim=True, unbiased=False),
        lambda net, x: x / jnp.var(x, -1, keepdims=True),
        lambda net, x: x / jnp.var(x, -1, keepdims=True, ddof=1),
    ),
    words(
        "round-half",
        lambda net, x: (torch.floor(x * 2) / 2 + 0.5).floor(),
        lambda net, x: jnp.floor(jnp.floor(x * 2) / 2 + 0.5),
        lambda net, x: jnp.round(jnp.floor(x * 2) / 2),
    ),
)
NORM_PAIRS = (
    epsilon("norm-epsilon", 1e-5, 1e-6),
    epsilon("norm-epsilon-1e-6", 1e-6, 1e-5),
    epsilon("norm-epsilon-1e-12", 1e-12, 1e-6),
    norm(
        "norm-epsilon-1e-3",
        layers(nn.GroupNorm, 2, 8, eps=1e-3),
        flax_layers(nnx.GroupNorm, 8, num_groups=2, epsilon=1e-3),
        flax_layers(nnx.GroupNorm, 8, num_groups=2),
    ),
    norm(
        "norm-epsilon-outside-root",
        layers(UnbiasedNorm, 8, False),
        flax_layers(WrittenNorm, 8, 0),
        flax_layers(nnx.LayerNorm, 8, epsilon=1e-3),
    ),
    norm(
        "norm-unbiased",
        layers(UnbiasedNorm, 8, True),
        flax_layers(WrittenNorm, 8, 1),
        flax_layers(nnx.LayerNorm, 8, epsilon=1e-3),
        tiny=False,
    ),
    words(
        "fast-variance",
        lambda net, x: net.layer(x + 50),
        lambda net, x: net.layer(x + 50),
        lambda net, x: net.layer(x + 50),
        layers=layers(nn.LayerNorm, 8),
        right_layers=flax_layers(nnx.LayerNorm, 8, epsilon=1e-5, use_fast_variance=False),
        wrong_layers=flax_layers(nnx.LayerNorm, 8, epsilon=1e-5),
    ),
    norm(
        "rms-norm-offset",
        layers(GemmaNorm, 8),
        flax_layers(WrittenGemmaNorm, 8),
        flax_layers(nnx.RMSNorm, 8),
        tiny=False,
    ),
    image(
        "batch-norm-mode",
        layer,
        layer,
        layer,
        layers=lambda: {"layer": nn.BatchNorm2d(4).eval()},
        right_layers=flax_layers(nnx.BatchNorm, 4, use_running_average=True, momentum=0.9),
        wrong_layers=flax_layers(nnx.BatchNorm, 4, use_running_average=False, momentum=0.9),
    ),
)
CONV_PAIRS = (
    conv("conv-padding", {"stride": 2, "padding": 1}, {"strides": 2, "padding": 1}, {"strides": 2}),
    image(
        "conv-padding-end",
        lambda net, x: net.layer(F.pad(x, (0, 1, 0, 1))),
        layer,
        layer,
        layers=layers(nn.Conv2d, 4, 4, 3, stride=2),
        right_layers=flax_layers(nnx.Conv, 4, 4, (3, 3), strides=2, padding=((0, 1), (0, 1))),
        wrong_layers=flax_layers(nnx.Conv, 4, 4, (3, 3), strides=2, padding=1),
    ),
    image(
        "conv-padding-causal",
        lambda net, x: net.layer(F.pad(x, (2, 0, 2, 0))),
        layer,
        layer,
        layers=layers(nn.Conv2d, 4, 4, 3),
        right_layers=flax_layers(nnx.Conv, 4, 4, (3, 3), padding=((2, 0), (2, 0))),
        wrong_layers=flax_layers(nnx.Conv, 4, 4, (3, 3)),
    ),
    conv("conv-padding-none", {}, {"padding": "VALID"}, {}),
    dense(
        "conv-kernel-flip",
        lambda net, x: F.conv1d(x[:, None], torch.tensor([[FILTER]]), padding=1)[:, 0],
        lambda net, x: filtered(x, jnp.asarray(FILTER[::-1], x.dtype)),
        lambda net, x: filtered(x, jnp.asarray(FILTER, x.dtype)),
    ),
    image(
        "conv-transpose-padding",
        layer,
        layer,
        layer,
        layers=layers(nn.ConvTranspose2d, 4, 4, 3, stride=2, padding=1, output_padding=1),
        right_layers=flax_layers(nnx.ConvTranspose, 4, 4, (3, 3), strides=(2, 2), padding=((1, 2), (1, 2))),
        wrong_layers=flax_layers(nnx.ConvTranspose, 4, 4, (3, 3), strides=(2, 2)),
    ),
    image(
        "conv-transpose-flip",
        layer,
        layer,
        layer,
        layers=layers(nn.ConvTranspose2d, 4, 4, 2, stride=2),
        right_layers=flax_layers(nnx.ConvTranspose, 4, 4, (2, 2), strides=(2, 2), padding="VALID"),
        wrong_layers=flax_layers(Unflipped, 4, 4, (2, 2), strides=(2, 2), padding="VALID"),
    ),
    image(
        "avg-pool-padding",
        lambda net, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        pool("avg_pool", padding=((1, 1), (1, 1)), count_include_pad=False),
        pool("avg_pool", padding=((1, 1), (1, 1))),
    ),
    image(
        "avg-pool-padding-counted",
        lambda net, x: F.avg_pool2d(x, 3, 2, 1),
        pool("avg_pool", padding=((1, 1), (1, 1))),
        pool("avg_pool", padding=((1, 1), (1, 1)), count_include_pad=False),
    ),
    image(
        "pool-padding",
        lambda net, x: F.max_pool2d(x, 3, 2, 1),
        pool("max_pool", padding=((1, 1), (1, 1))),
        pool("max_pool", padding="SAME"),
    ),
    image(
        "pool-padding-none", lambda net, x: F.max_pool2d(x, 3, 2), pool("max_pool"), pool("max_pool", padding="SAME")
    ),
    image(
        "resize-antialias",
        lambda net, x: F.interpolate(x, (5, 5), mode="bilinear"),
        resized("bilinear", 5, antialias=False),
        resized("bilinear", 5),
    ),
    image(
        "resize-corners",
        lambda net, x: F.interpolate(x, (15, 15), mode="bilinear", align_corners=True),
        weighted(corner_matrix(8, 15)),
        resized("bilinear", 15),
    ),
    image(
        "resize-bicubic",
        lambda net, x: F.interpolate(x, (13, 13), mode="bicubic"),
        resized("cubic-pytorch", 13, antialias=False),
        resized("bicubic", 13),
    ),
    image(
        "resize-nearest",
        lambda net, x: F.interpolate(x, (5, 5)),
        lambda net, x: x[:, np.arange(5) * 8 // 5][:, :, np.arange(5) * 8 // 5],
        resized("nearest", 5),
    ),
)
ATTENTION_PAIRS = (
    replace(
        words(
            "attention-float32",
            lambda net, x: torch_attention(x),
            lambda net, x: written_attention(x, 0.5),
            lambda net, x: jax_attention(x),
        ),
        float64=True,
    ),
    words(
        "attention-unscaled",
        lambda net, x: torch_attention(x, scale=1.0),
        lambda net, x: jax_attention(x, scale=1.0),
        lambda net, x: nnx.dot_product_attention(*jax_heads(x)).reshape(x.shape),
    ),
    words(
        "attention-scale",
        lambda net, x: torch_attention(x),
        lambda net, x: written_attention(x, 0.5),
        lambda net, x: written_attention(x, 1.0),
    ),
    words(
        "attention-other-scale",
        lambda net, x: torch_attention(x),
        lambda net, x: jax_attention(x),
        lambda net, x: jax_attention(x, scale=8**-0.5),
    ),
    words(
        "attention-causal",
        lambda net, x: torch_attention(x, is_causal=True),
        lambda net, x: jax_attention(x, is_causal=True),
        lambda net, x: written_attention(x, 0.5),
    ),
    words(
        "attention-not-causal",
        lambda net, x: torch_attention(x),
        lambda net, x: jax_attention(x),
        lambda net, x: jax_attention(x, is_causal=True),
    ),
    words(
        "mask-polarity",
        lambda net, x: torch_attention(x, attn_mask=torch.tensor(KEPT)),
        lambda net, x: jax_attention(x, mask=jnp.asarray(KEPT)),
        lambda net, x: written_attention(x, 0.5, ~jnp.asarray(KEPT), -1e9),
    ),
    words(
        "mask-value",
        torch_added_mask,
        lambda net, x: jax_attention(x, bias=jnp.where(jnp.asarray(ROW_HIDDEN), 0.0, -1e4).astype(x.dtype)),
        lambda net, x: written_attention(x, 0.5, jnp.asarray(ROW_HIDDEN), -1e9),
    ),
    words(
        "mask-value-finite",
        torch_filled_mask,
        lambda net, x: written_attention(x, 0.5, jnp.asarray(ROW_HIDDEN), jnp.finfo(x.dtype).min),
        lambda net, x: written_attention(x, 0.5, jnp.asarray(ROW_HIDDEN), -jnp.inf),
    ),
    words(
        "heads-tiled",
        lambda net, x: torch_grouped(x, True),
        lambda net, x: jax_grouped(x, True),
        lambda net, x: jax_grouped(x, False),
    ),
    words(
        "heads-repeated",
        lambda net, x: torch_grouped(x, False),
        lambda net, x: jax_grouped(x, False),
        lambda net, x: jax_grouped(x, True),
    ),
    words(
        "rotary-interleaved",
        lambda net, x: torch_rotate_pairs(x),
        lambda net, x: apply_rotary_pairs(x),
        lambda net, x: apply_rotary(x),
    ),
    words(
        "rotary-halves",
        lambda net, x: torch_rotate_halves(x),
        lambda net, x: apply_rotary(x),
        lambda net, x: apply_rotary_pairs(x),
    ),
    words(
        "rotary-bfloat16",
        lambda net, x: torch_rotate_halves(x),
        lambda net, x: apply_rotary(x),
        lambda net, x: rotary_in_bfloat16(x),
    ),
    dense(
        "dropout-on",
        layer,
        layer,
        layer,
        layers=lambda: {"layer": nn.Dropout(0.5).eval()},
        right_layers=flax_layers(nnx.Dropout, 0.5, deterministic=True),
        wrong_layers=flax_layers(nnx.Dropout, 0.5),
    ),
)
OTHER_PAIRS = (
    dense(
        "gru-gate-order", torch_three_gates, jax_three_gates, functools.partial(jax_three_gates, swapped=True), width=4
    ),
    dense("lstm-gate-order", torch_gates, jax_gates, functools.partial(jax_gates, order=(0, 2, 1, 3)), width=6),
    same_layer("layers-bfloat16", {"dtype": jnp.bfloat16}),
    dense("label-smoothing", torch_loss, jax_loss(True), jax_loss(False)),
)
HYPOTHESIS_PAIRS = (*ACTIVATION_PAIRS, *SOFTMAX_PAIRS, *NORM_PAIRS, *CONV_PAIRS, *ATTENTION_PAIRS, *OTHER_PAIRS)
"""Pairs whose difference a patch undoes."""


# Pairs that differ in a setting alone.

MOMENTUM_PAIR = image(
    "batch-norm-momentum",
    layer,
    layer,
    layer,
    layers=layers(nn.BatchNorm2d, 4),
    right_layers=flax_layers(nnx.BatchNorm, 4, momentum=0.9),
    wrong_layers=flax_layers(nnx.BatchNorm, 4, momentum=0.1),
)
SETTING_PAIRS = (
    *(pair for pair in HYPOTHESIS_PAIRS if pair.cause in ("norm-epsilon", "conv-transpose-padding")),
    *(replace(pair, cause="conv-padding") for pair in CONV_PAIRS if pair.cause == "conv-padding-none"),
    MOMENTUM_PAIR,
    norm(
        "norm-groups",
        layers(nn.GroupNorm, 2, 8),
        flax_layers(nnx.GroupNorm, 8, num_groups=2, epsilon=1e-5),
        flax_layers(nnx.GroupNorm, 8, num_groups=4, epsilon=1e-5),
        tiny=False,
    ),
    words(
        "norm-axes",
        layer,
        layer,
        layer,
        layers=layers(nn.LayerNorm, (5, 8), elementwise_affine=False),
        right_layers=flax_layers(
            nnx.LayerNorm, 8, epsilon=1e-5, reduction_axes=(-2, -1), use_bias=False, use_scale=False
        ),
        wrong_layers=flax_layers(nnx.LayerNorm, 8, epsilon=1e-5, use_bias=False, use_scale=False),
    ),
    conv("conv-strides", {"stride": 2, "padding": 1}, {"strides": 2, "padding": 1}, {"strides": (1, 1), "padding": 1}),
    conv("conv-dilation", {"dilation": 2, "padding": 2}, {"kernel_dilation": 2}, {"padding": 2}),
    conv("conv-groups", {"groups": 2, "padding": 1}, {"feature_group_count": 2}, {"padding": 1}),
    conv("conv-padding", {"padding": 2}, {"padding": 2}, {"padding": ((2, 1), (2, 1))}),
    conv("conv-padding", {"padding": 1, "padding_mode": "circular"}, {"padding": "CIRCULAR"}, {"padding": "SAME"}),
    dense(
        "dropout-rate",
        layer,
        layer,
        layer,
        layers=lambda: {"layer": nn.Dropout(0.1).eval()},
        right_layers=flax_layers(nnx.Dropout, 0.1, deterministic=True),
        wrong_layers=flax_layers(nnx.Dropout, 0.2, deterministic=True),
    ),
)
