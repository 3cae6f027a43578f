"""The port to Flax NNX."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from examples.ports.gpt.rotary import rotate

Linear = partial(nnx.Linear, use_bias=False)
RMSNorm = partial(nnx.RMSNorm, epsilon=1e-5)  # Flax's default is 1e-6


class Attention(nnx.Module):
    """Causal attention in which several query heads share a key and a value head."""

    def __init__(self, width: int, heads: int, kv_heads: int, rngs: nnx.Rngs) -> None:
        self.channels = width // heads
        self.scale = self.channels**-0.5
        self.base = 10_000.0
        self.queries_per_key = heads // kv_heads
        self.query = Linear(width, width, rngs=rngs)
        self.key = Linear(width, kv_heads * self.channels, rngs=rngs)
        self.value = Linear(width, kv_heads * self.channels, rngs=rngs)
        self.out = Linear(width, width, rngs=rngs)

    def split(self, x: jax.Array) -> jax.Array:
        """Returns x as (batch, heads, tokens, channels)."""
        return x.reshape(*x.shape[:2], -1, self.channels).swapaxes(1, 2)

    def repeat(self, x: jax.Array) -> jax.Array:
        """Returns each key or value head as often as it has query heads."""
        return jnp.repeat(x, self.queries_per_key, axis=1)

    def rotate(self, x: jax.Array) -> jax.Array:
        return rotate(x, self.base)

    def mask(self, tokens: int) -> jax.Array:
        """Returns which token (row) sees which (column)."""
        return jnp.tri(tokens, dtype=bool)

    def __call__(self, x: jax.Array) -> jax.Array:
        q = self.rotate(self.split(self.query(x)))
        k = self.repeat(self.rotate(self.split(self.key(x))))
        v = self.repeat(self.split(self.value(x)))
        scores = self.scale * q @ k.swapaxes(-1, -2)
        weights = jax.nn.softmax(jnp.where(self.mask(x.shape[1]), scores, -jnp.inf), axis=-1)
        y = weights @ v
        return self.out(y.swapaxes(1, 2).reshape(x.shape))


class MLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.gate = Linear(width, hidden, rngs=rngs)
        self.up = Linear(width, hidden, rngs=rngs)
        self.down = Linear(hidden, width, rngs=rngs)
        self.activation = nnx.silu

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Attention and an MLP, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.norm1 = RMSNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, kv_heads, rngs)
        self.norm2 = RMSNorm(width, rngs=rngs)
        self.mlp = MLP(width, hidden, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nnx.Module):
    """Tokens (batch, length) to logits (batch, length, vocabulary) by the embedding's own weights."""

    def __init__(
        self,
        vocabulary: int = 50,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        kv_heads: int = 2,
        hidden: int = 80,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.embedding = nnx.Embed(vocabulary, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, heads, kv_heads, hidden, rngs) for _ in range(depth)])
        self.norm = RMSNorm(width, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embedding.attend(self.norm(x))
