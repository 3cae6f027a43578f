"""The port to Haiku."""

from functools import partial

import haiku as hk
import jax
import jax.numpy as jnp

from examples.ports.gpt.rotary import rotate

Linear = partial(hk.Linear, with_bias=False)
RMSNorm = partial(hk.RMSNorm, axis=-1, eps=1e-5)


class Attention(hk.Module):
    """Causal attention in which several query heads share a key and a value head."""

    def __init__(self, heads: int, kv_heads: int, name: str) -> None:
        super().__init__(name=name)
        self.heads = heads
        self.kv_heads = kv_heads

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        channels = width // self.heads
        q, k, v = (
            Linear(heads * channels, name=name)(x).reshape(batch, tokens, heads, channels).swapaxes(1, 2)
            for name, heads in (("query", self.heads), ("key", self.kv_heads), ("value", self.kv_heads))
        )
        q, k = rotate(q, base=10_000.0), rotate(k, base=10_000.0)
        k, v = (jnp.repeat(y, self.heads // self.kv_heads, axis=1) for y in (k, v))
        scores = q @ k.swapaxes(-1, -2) / channels**0.5
        scores = jnp.where(jnp.tri(tokens, dtype=bool), scores, -jnp.inf)
        y = jax.nn.softmax(scores, axis=-1) @ v
        return Linear(width, name="out")(y.swapaxes(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class MLP(hk.Module):
    """SwiGLU."""

    def __init__(self, hidden: int, name: str) -> None:
        super().__init__(name=name)
        self.hidden = hidden

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up = Linear(self.hidden, name="gate")(x), Linear(self.hidden, name="up")(x)
        return Linear(x.shape[-1], name="down")(jax.nn.silu(gate) * up)  # type: ignore[no-any-return]


class GPT(hk.Module):
    """Tokens (batch, length) to logits (batch, length, vocabulary) by the embedding's own weights."""

    def __init__(
        self,
        vocabulary: int = 50,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        kv_heads: int = 2,
        hidden: int = 80,
    ) -> None:
        super().__init__(name="gpt")
        self.vocabulary = vocabulary
        self.width = width
        self.depth = depth
        self.heads = heads
        self.kv_heads = kv_heads
        self.hidden = hidden

    def __call__(self, tokens: jax.Array) -> jax.Array:
        embedding = hk.Embed(self.vocabulary, self.width, name="embedding")
        x = embedding(tokens)
        for i in range(self.depth):
            y = RMSNorm(name=f"block{i}_norm1")(x)
            x = x + Attention(self.heads, self.kv_heads, name=f"block{i}_attention")(y)
            y = RMSNorm(name=f"block{i}_norm2")(x)
            x = x + MLP(self.hidden, name=f"block{i}_mlp")(y)
        return RMSNorm(name="norm")(x) @ embedding.embeddings.T  # type: ignore[no-any-return]
