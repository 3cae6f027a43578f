"""Embeddings, residuals and recurrent layers: the patches that undo their differences, and what differs."""

from collections.abc import Sequence
from typing import Any

from twincheck.causes.cause import LINEAR_PAGE, RECURRENT_PAGE, Cause, jax_page, torch_page
from twincheck.causes.replace import Function, functions
from twincheck.recording import Patch


def split_order(order: Sequence[int]) -> Patch:
    """Returns a patch that gives the parts of `jnp.split` in another order, if there are as many as `order` has."""

    def wrap(original: Function) -> Function:
        def call(ary: Any, indices_or_sections: Any, axis: int = 0) -> Any:
            parts = original(ary, indices_or_sections, axis)
            return [parts[i] for i in order] if len(parts) == len(order) else parts

        return call

    return functions({"jax.numpy.split": wrap})


CAUSES: Sequence[Cause] = (
    # Embeddings, residuals, pooling of a sequence
    Cause(
        "embedding-scale",
        "Embedding: torch multiplies it by the square root of its size, JAX does not.",
        "embed(tokens) * jnp.sqrt(features)",
        torch_page("nn.Embedding"),
        LINEAR_PAGE,
    ),
    Cause(
        "embedding-unscaled",
        "Embedding: JAX multiplies it by the square root of its size, torch does not.",
        "embed(tokens) without the factor",
        torch_page("nn.Embedding"),
        LINEAR_PAGE,
    ),
    Cause(
        "padding-index",
        "Embedding: torch's padding_idx gets no gradient; Flax's Embed has no such option.",
        "Set the gradient of the row to zero, with an optax mask or jax.lax.stop_gradient.",
        torch_page("nn.Embedding"),
        LINEAR_PAGE,
    ),
    Cause(
        "embedding-max-norm",
        "Embedding: torch shortens rows to max_norm; Flax's Embed does not.",
        "Divide the rows by their norms where these exceed max_norm.",
        torch_page("nn.Embedding"),
        LINEAR_PAGE,
    ),
    Cause(
        "tied-weights",
        "Tied weights: in torch the output layer shares the embedding's weights, in JAX both have their own.",
        "embed.attend(x) in place of a linear layer",
        torch_page("nn.Embedding"),
        LINEAR_PAGE,
    ),
    Cause(
        "token-types",
        "Embedding: torch adds the embedding of the default token type (row 0), JAX leaves it out.",
        "Add token_type_embeddings(jnp.zeros_like(tokens)).",
        torch_page("nn.Embedding"),
        LINEAR_PAGE,
    ),
    Cause(
        "positions-left-out",
        "Embedding: the sides add different arrays, each the same for all examples, as positions; one may add none.",
        "x + positions, with the positions of the PyTorch model",
        torch_page("nn.Embedding"),
        LINEAR_PAGE,
    ),
    Cause(
        "residual-left-out",
        "Residual: torch adds an earlier tensor here, JAX does not.",
        "x + f(x)",
        torch_page("add"),
        jax_page("jax.numpy.add"),
    ),
    Cause(
        "residual-doubled",
        "Residual: JAX adds an earlier tensor that torch does not add.",
        "f(x) without x",
        torch_page("add"),
        jax_page("jax.numpy.add"),
    ),
    Cause(
        "residual-order",
        "Residual: torch adds it before the activation, JAX after.",
        "act(f(x) + x)",
        torch_page("add"),
        jax_page("jax.numpy.add"),
    ),
    Cause(
        "residual-norm",
        "Residual: the two sides add different tensors, such as the input of a norm and its output.",
        "x + f(norm(x)) or norm(x) + f(norm(x)), as the PyTorch model",
        torch_page("add"),
        jax_page("jax.numpy.add"),
    ),
    Cause(
        "pooling",
        "Pooling to one vector: the sides take different ones of first (CLS) and last position, mean, sum, maximum.",
        "x[:, 0], x[:, -1], x.mean(1) or x.max(1), as the PyTorch model",
        torch_page("mean"),
        jax_page("jax.numpy.mean"),
    ),
    # Recurrent layers
    Cause(
        "gru-two-biases",
        "GRU: torch has two biases, of which that of the hidden state is inside the reset gate; nnx.GRUCell has one.",
        "A cell with a bias b_hn: tanh(W x + b_in + r * (U h + b_hn))",
        torch_page("nn.GRU"),
        RECURRENT_PAGE,
    ),
    Cause(
        "gru-gate-order",
        "GRU: torch's gates come in the order r, z, n; JAX's parts in another order.",
        "r, z, n = jnp.split(gates, 3, -1)",
        torch_page("nn.GRU"),
        RECURRENT_PAGE,
        split_order((1, 0, 2)),
    ),
    Cause(
        "gru-reset",
        "GRU: torch applies the reset gate after the product with the hidden state, JAX before.",
        "n = jnp.tanh(W @ x + b_in + r * (U @ h + b_hn))",
        torch_page("nn.GRU"),
        RECURRENT_PAGE,
    ),
    Cause(
        "gru-update",
        "GRU: torch's update gate is the share of the old state that is kept, JAX's that of the new one.",
        "h = (1 - z) * n + z * h",
        torch_page("nn.GRU"),
        RECURRENT_PAGE,
    ),
    Cause(
        "recurrent-start",
        "Recurrent layer: torch starts from zeros, JAX from another state.",
        "Start from jnp.zeros.",
        torch_page("nn.GRU"),
        RECURRENT_PAGE,
    ),
    Cause(
        "recurrent-direction",
        "Recurrent layer: JAX runs a sequence in the other direction, or gives its outputs out in that order.",
        "nnx.RNN(cell) for torch's first direction, nnx.RNN(cell, reverse=True, keep_order=True) for its second",
        torch_page("nn.GRU"),
        RECURRENT_PAGE,
    ),
    Cause(
        "lstm-gate-order",
        "LSTM: torch's gates come in the order i, f, g, o; JAX's in another order, in Haiku i, g, f, o.",
        "i, f, g, o = jnp.split(gates, 4, -1)",
        torch_page("nn.LSTM"),
        RECURRENT_PAGE,
        split_order((0, 2, 1, 3)),
    ),
    Cause(
        "forget-gate-bias",
        "LSTM: JAX adds 1 to the forget gate, as Haiku does; torch does not.",
        "Subtract 1 from the forget gate's bias when the weights are loaded.",
        torch_page("nn.LSTM"),
        "https://dm-haiku.readthedocs.io/en/latest/api.html#lstm",
    ),
    Cause(
        "forget-gate-bias-left-out",
        "LSTM: torch adds 1 to the forget gate; JAX does not.",
        "jax.nn.sigmoid(f + 1)",
        torch_page("nn.LSTM"),
        RECURRENT_PAGE,
    ),
)
