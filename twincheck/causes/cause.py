"""The class of causes, and the pages that document both sides."""

from dataclasses import dataclass

from twincheck.recording import Patch

TORCH = "https://docs.pytorch.org/docs/stable/generated/"
FLAX = "https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/"
JAX = "https://docs.jax.dev/en/latest/_autosummary/"
OPTAX = "https://optax.readthedocs.io/en/latest/api/"


@dataclass(frozen=True)
class Cause:
    """A known difference between a PyTorch model and a JAX model.

    Attributes:
        name: a short name.
        says: one sentence that says what differs.
        fix: code, or an instruction, that changes the JAX side.
        torch_reference: documentation of torch's side.
        jax_reference: documentation of JAX's side.
        patch: changes the JAX side for as long as a context lasts, so that the difference is gone; None for a cause
            that is recognised by its settings or by its values.
    """

    name: str
    says: str
    fix: str
    torch_reference: str
    jax_reference: str
    patch: Patch | None = None


def torch_page(page: str) -> str:
    return f"{TORCH}torch.{page}.html"


def jax_page(page: str) -> str:
    return f"{JAX}{page}.html"


def nnx_page(page: str) -> str:
    return f"{FLAX}{page}.html"


def optax_page(page: str) -> str:
    return f"{OPTAX}{page}"


ACTIVATIONS_PAGE = nnx_page("nn/activations")
NORMS_PAGE = nnx_page("nn/normalization")
LINEAR_PAGE = nnx_page("nn/linear")
ATTENTION_PAGE = nnx_page("nn/attention")
RECURRENT_PAGE = nnx_page("nn/recurrent")
DROPOUT_PAGE = nnx_page("nn/stochastic")
POOLING_PAGE = "https://flax.readthedocs.io/en/latest/api_reference/flax.linen/layers.html"
SDPA_PAGE = torch_page("nn.functional.scaled_dot_product_attention")
JAX_ATTENTION_PAGE = jax_page("jax.nn.dot_product_attention")
