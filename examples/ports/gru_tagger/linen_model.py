"""The port to Flax linen: its GRU cell has one bias where torch adds two, for the reset and the update gate."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

PADDING = 0


class Tagger(nn.Module):
    """Tokens (batch, length), filled up with `PADDING`, to logits (batch, length, tags)."""

    vocabulary: int = 20
    width: int = 12
    hidden: int = 16
    tags: int = 5
    param_dtype: Any = jnp.float32  # also the dtype of the states

    def setup(self) -> None:
        self.embedding = nn.Embed(self.vocabulary, self.width)
        self.forward = nn.RNN(nn.GRUCell(self.hidden, param_dtype=self.param_dtype))
        self.backward = nn.RNN(nn.GRUCell(self.hidden, param_dtype=self.param_dtype), reverse=True, keep_order=True)
        self.head = nn.Dense(self.tags)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Returns the embedding, whose row of `PADDING` is not trained."""
        x = self.embedding(tokens)
        return jnp.where((tokens == PADDING)[..., None], jax.lax.stop_gradient(x), x)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        states = jnp.concatenate([self.forward(x), self.backward(x)], axis=-1)  # type: ignore[list-item]
        return self.head(states)
