"""The port to Flax NNX, with q, k and v from one product."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

LayerNorm = partial(nnx.LayerNorm, epsilon=1e-5)  # Flax's default is 1e-6
gelu = partial(jax.nn.gelu, approximate=False)  # JAX's default is the tanh approximation


class Attention(nnx.Module):
    """Attention of all tokens to all, in the input's dtype."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def split(self, x: jax.Array) -> jax.Array:
        """Returns q, k and v as (3, batch, heads, tokens, channels)."""
        batch, tokens, _ = x.shape
        return x.reshape(batch, tokens, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)

    def merge(self, x: jax.Array) -> jax.Array:
        batch, _, tokens, _ = x.shape
        return x.transpose(0, 2, 1, 3).reshape(batch, tokens, -1)

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = self.split(self.qkv(x))
        weights = jax.nn.softmax(self.scale * q @ k.swapaxes(-1, -2), axis=-1)
        return self.out(self.merge(weights @ v))


class MLP(nnx.Module):
    """Two layers, the first four times as wide."""

    def __init__(self, width: int, dropout: float, rngs: nnx.Rngs) -> None:
        self.linear1 = nnx.Linear(width, 4 * width, rngs=rngs)
        self.linear2 = nnx.Linear(4 * width, width, rngs=rngs)
        self.dropout1 = nnx.Dropout(dropout, rngs=rngs)
        self.dropout2 = nnx.Dropout(dropout, rngs=rngs)
        self.activation = gelu

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.dropout1(self.activation(self.linear1(x)))
        return self.dropout2(self.linear2(x))


class Block(nnx.Module):
    """Attention and an MLP, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int, dropout: float, rngs: nnx.Rngs) -> None:
        self.norm1 = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, rngs)
        self.norm2 = LayerNorm(width, rngs=rngs)
        self.mlp = MLP(width, dropout, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nnx.Module):
    """Images (batch, size, size, 3) to logits (batch, classes)."""

    def __init__(
        self,
        size: int = 32,
        patch: int = 8,
        width: int = 32,
        depth: int = 3,
        heads: int = 4,
        classes: int = 10,
        dropout: float = 0.1,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.patches = nnx.Conv(3, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
        self.cls_token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (1, (size // patch) ** 2 + 1, width)))
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.blocks = nnx.Sequential(*[Block(width, heads, dropout, rngs) for _ in range(depth)])
        self.norm = LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def tokens(self, x: jax.Array) -> jax.Array:
        """Returns the patches' features in rows from the top, behind the class token."""
        cls_token = jnp.broadcast_to(self.cls_token[...], (len(x), 1, x.shape[-1]))
        return jnp.concatenate([cls_token, x.reshape(len(x), -1, x.shape[-1])], axis=1)

    def pool(self, x: jax.Array) -> jax.Array:
        return x[:, 0]

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.tokens(self.patches(x))
        x = self.dropout(x + self.positions[...])
        x = self.norm(self.blocks(x))
        return self.head(self.pool(x))
