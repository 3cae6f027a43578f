"""Rotary embeddings, as functions: Flax and Haiku share them."""

import jax
import jax.numpy as jnp


def angles(tokens: int, channels: int, base: float, dtype: jnp.dtype) -> jax.Array:
    """Returns the angles (tokens, channels / 2)."""
    frequencies = base ** (-jnp.arange(0, channels, 2, dtype=dtype) / channels)
    return jnp.arange(tokens, dtype=dtype)[:, None] * frequencies


def rotate(x: jax.Array, base: float) -> jax.Array:
    """Returns x (batch, heads, tokens, channels) with channel i and i + channels / 2 turned by the token's angle."""
    angle = angles(x.shape[-2], x.shape[-1], base, x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
