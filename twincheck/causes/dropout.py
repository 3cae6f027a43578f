"""Dropout: the patch that turns it off, and what differs."""

from collections.abc import Sequence

from twincheck.causes.cause import DROPOUT_PAGE, Cause, torch_page
from twincheck.causes.replace import attributes, together

dropout_off = together(
    attributes(("flax.nnx.Dropout", "flax.linen.Dropout"), {"rate": 0.0}),
    attributes(
        ("flax.nnx.MultiHeadAttention", "flax.linen.MultiHeadAttention"),
        {"dropout_rate": 0.0, "deterministic": True},
        deterministic=True,
    ),
)


CAUSES: Sequence[Cause] = (
    Cause(
        "dropout-on",
        "Dropout: it is on in JAX, off in torch (eval mode).",
        "model.eval(), or deterministic=True",
        torch_page("nn.Dropout"),
        DROPOUT_PAGE,
        dropout_off,
    ),
    Cause(
        "dropout-rate",
        "Dropout: the rates differ.",
        "nnx.Dropout(rate=...) as torch's p",
        torch_page("nn.Dropout"),
        DROPOUT_PAGE,
    ),
)
