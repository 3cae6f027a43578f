"""The port to Flax NNX, with torch's GRU cell: Flax's has no bias behind the state's product."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

PADDING = 0


class GRUCell(nnx.RNNCellBase):
    """torch's GRU cell: the reset gate scales the state's product after its bias is added."""

    num_feature_axes = 1

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.input = nnx.Linear(width, 3 * hidden, rngs=rngs)
        self.hidden = nnx.Linear(hidden, 3 * hidden, rngs=rngs)

    def __call__(self, state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        input_reset, input_update, input_new = jnp.split(self.input(x), 3, axis=-1)
        hidden_reset, hidden_update, hidden_new = jnp.split(self.hidden(state), 3, axis=-1)
        reset = nnx.sigmoid(input_reset + hidden_reset)
        update = nnx.sigmoid(input_update + hidden_update)
        new = jnp.tanh(input_new + reset * hidden_new)
        state = (1 - update) * new + update * state
        return state, state

    def initialize_carry(self, input_shape: tuple[int, ...], *arguments: Any, **options: Any) -> jax.Array:
        return jnp.zeros((*input_shape[:-1], self.hidden.in_features), self.hidden.kernel.dtype)


class Embedding(nnx.Embed):
    """An embedding whose row of `PADDING` is not trained, as with torch's `padding_idx`."""

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        x = super().__call__(inputs, out_sharding)
        return jnp.where((inputs == PADDING)[..., None], jax.lax.stop_gradient(x), x)


class Tagger(nnx.Module):
    """Tokens (batch, length), filled up with `PADDING`, to logits (batch, length, tags)."""

    def __init__(
        self, vocabulary: int = 20, width: int = 12, hidden: int = 16, tags: int = 5, *, rngs: nnx.Rngs
    ) -> None:
        self.embedding = Embedding(vocabulary, width, rngs=rngs)
        self.forward = nnx.RNN(GRUCell(width, hidden, rngs), rngs=False)
        self.backward = nnx.RNN(GRUCell(width, hidden, rngs), reverse=True, keep_order=True, rngs=False)
        self.head = nnx.Linear(2 * hidden, tags, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens)
        return self.head(jnp.concatenate([self.forward(x), self.backward(x)], axis=-1))
