"""What the planted pairs compute between their two layers, in both frameworks."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import nnx
from planted_nets import Layers, Pair, Place, dense, flax_layers, image, layer, layers
from torch import nn

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


def multiplied_attention(x: jax.Array, scale: float) -> jax.Array:
    """Attention with `@`."""
    q, k, v = (heads.swapaxes(1, 2) for heads in jax_heads(x))
    return (jax.nn.softmax(q @ k.swapaxes(-1, -2) * scale, axis=-1) @ v).swapaxes(1, 2).reshape(x.shape)


def causal_attention(x: jax.Array, k: int = 0) -> jax.Array:
    return written_attention(x, 0.5, jnp.tril(jnp.ones((x.shape[1],) * 2, bool), k)[None, None], -jnp.inf)


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


def torch_rotary(x: torch.Tensor) -> torch.Tensor:
    a = torch.arange(x.shape[1])[:, None] * 10_000.0 ** (-torch.arange(x.shape[2] // 2) / (x.shape[2] // 2))
    first, second = x.chunk(2, -1)
    return torch.cat([first * a.cos() - second * a.sin(), second * a.cos() + first * a.sin()], -1)


def rotary(x: jax.Array, base: float = 10_000.0, sign: float = 1.0) -> jax.Array:
    a = jnp.arange(x.shape[1])[:, None] * base ** (-jnp.arange(x.shape[2] // 2) / (x.shape[2] // 2))[None]
    cos, sin = jnp.cos(a)[None].astype(x.dtype), sign * jnp.sin(a)[None].astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


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
    """Returns a pair of convolutions whose outputs are averaged over space, so that any of their sizes fit."""

    def averaged(net: Any, x: jax.Array) -> jax.Array:
        return net.layer(x).mean((1, 2), keepdims=True)

    return image(
        cause,
        lambda net, x: net.layer(x).mean((2, 3), keepdim=True),
        averaged,
        averaged,
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


class OwnLayerNorm(nn.LayerNorm):
    """A norm whose settings are not known, as that of a model with norms of its own."""


class OwnGroupNorm(nn.GroupNorm):
    """The same for groups."""


def epsilon(cause: str, eps: float, wrong: float, kind: type[nn.LayerNorm] = OwnLayerNorm) -> Pair:
    return norm(
        cause,
        layers(kind, 8, eps=eps),
        flax_layers(nnx.LayerNorm, 8, epsilon=eps),
        flax_layers(nnx.LayerNorm, 8, epsilon=wrong),
    )


KERNEL = np.random.default_rng(0).normal(size=(3, 3, 4, 4))


def torch_convolved(net: Any, x: torch.Tensor) -> torch.Tensor:
    """Returns the mean over space of a convolution without padding."""
    kernel = torch.tensor(KERNEL).movedim((-1, -2), (0, 1)).to(x.dtype)
    return F.conv2d(x, kernel).mean((2, 3), keepdim=True)


def convolved(padding: str) -> Place:
    """Returns the same in JAX, with a padding."""

    def place(net: Any, x: jax.Array) -> jax.Array:
        kernel = jnp.asarray(KERNEL, x.dtype)
        out = jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return out.mean((1, 2), keepdims=True)

    return place


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
