"""Precision and losses: the patches that undo their differences, and what differs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from twincheck.causes.cause import LINEAR_PAGE, Cause, jax_page, optax_page, torch_page
from twincheck.causes.norms import NORMS
from twincheck.causes.replace import Function, attributes, functions
from twincheck.recording import Patch, Patched

PRODUCTS = tuple(
    f"flax.{package}.{name}"
    for package, names in {
        "nnx": ("Conv", "ConvTranspose", "Einsum", "Linear", "LinearGeneral"),
        "linen": ("Conv", "ConvTranspose", "Dense", "DenseGeneral", "Einsum"),
    }.items()
    for name in names
)


_log_softmax = jax.nn.log_softmax


@Patch
@contextmanager
def highest_precision(modules: Sequence[object]) -> Iterator[Patched]:
    """Computes matrix products in the precision of their inputs."""
    highest = attributes(PRODUCTS, {"precision": lax.Precision.HIGHEST})
    with jax.default_matmul_precision("highest"), highest(modules) as patched:
        yield patched


LOW = ("bfloat16", "float16")


def _not_lowered(astype: Function) -> Function:
    def call(x: Any, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        return x if jnp.dtype(dtype).name in LOW else astype(x, dtype, *args, **kwargs)

    return call


stays_in_float32 = functions({}, {"jax.Array.astype": _not_lowered})
computes_in_float32 = attributes((*PRODUCTS, *NORMS, "flax.nnx.Embed", "flax.linen.Embed"), {"dtype": jnp.float32})


def label_smoothing(alpha: float) -> Patch:
    """Returns a patch that smooths the labels of optax's cross-entropy with integer labels."""

    def wrap(_: Function) -> Function:
        def call(logits: Any, labels: Any, *args: Any, **kwargs: Any) -> Any:
            log_p = _log_softmax(logits)
            picked = jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
            return -(1 - alpha) * picked - alpha * log_p.mean(-1)

        return call

    return functions({"optax.softmax_cross_entropy_with_integer_labels": wrap})


CAUSES: Sequence[Cause] = (
    # Precision
    Cause(
        "matmul-precision",
        "Precision: JAX multiplies matrices in lower precision than their type says, by default so on TPUs and GPUs.",
        'jax.config.update("jax_default_matmul_precision", "highest")',
        torch_page("set_float32_matmul_precision"),
        jax_page("jax.default_matmul_precision"),
        highest_precision,
    ),
    Cause(
        "layers-bfloat16",
        "Precision: the JAX layers compute in another type (dtype=...), torch's in float32.",
        "nnx.Linear(..., dtype=None)",
        "https://docs.pytorch.org/docs/stable/amp.html",
        LINEAR_PAGE,
        computes_in_float32,
    ),
    Cause(
        "low-precision",
        "Precision: JAX's values are rounded to bfloat16, torch's are not.",
        "Leave out the cast to bfloat16.",
        "https://docs.pytorch.org/docs/stable/amp.html",
        jax_page("jax.numpy.bfloat16"),
        stays_in_float32,
    ),
    # Losses
    Cause(
        "label-smoothing",
        "Loss: torch smooths the labels by 0.1 here (label_smoothing=0.1), optax's loss does not.",
        "optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, 0.1))",
        torch_page("nn.CrossEntropyLoss"),
        optax_page("losses.html"),
        label_smoothing(0.1),
    ),
    Cause(
        "loss-reduction",
        'Loss: torch takes the mean over the batch here (its default reduction="mean"), JAX the sum.',
        "losses.mean()",
        torch_page("nn.CrossEntropyLoss"),
        optax_page("losses.html"),
    ),
    Cause(
        "loss-reduction-sum",
        'Loss: torch takes the sum over the batch here (reduction="sum"), JAX the mean.',
        "losses.sum()",
        torch_page("nn.CrossEntropyLoss"),
        optax_page("losses.html"),
    ),
)
