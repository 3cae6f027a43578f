"""The port to Flax linen, with its own attention layer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a residual."""

    heads: int
    dropout: float
    norm: Callable[..., Any]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        y = self.norm(name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, name="attention")(y)
        y = self.norm(name="norm2")(x)
        y = self.activation(nn.Dense(4 * width, name="linear1")(y))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        y = nn.Dense(width, name="linear2")(y)
        return x + nn.Dropout(self.dropout, deterministic=not train)(y)  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Images (batch, height, width, 3) to logits (batch, classes)."""

    patch: int = 8
    width: int = 32
    depth: int = 3
    heads: int = 4
    classes: int = 10
    dropout: float = 0.1
    norm: Callable[..., Any] = partial(nn.LayerNorm, epsilon=1e-5)  # Flax's default is 1e-6
    activation: Callable[[jax.Array], jax.Array] = partial(nn.gelu, approximate=False)  # tanh by default

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(self.width, (self.patch, self.patch), strides=self.patch, padding="VALID", name="patches")(x)
        x = x.reshape(len(x), -1, self.width)
        cls_token = self.param("cls_token", nn.initializers.normal(1.0), (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(cls_token, (len(x), 1, self.width)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(1.0), (1, x.shape[1], self.width))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for i in range(self.depth):
            x = Block(self.heads, self.dropout, self.norm, self.activation, name=f"block{i}")(x, train)
        x = self.norm(name="norm")(x)
        return nn.Dense(self.classes, name="head")(x[:, 0])
