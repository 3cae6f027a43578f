"""Converts the parameters of the torch models to and from their canonical names, always by copy."""

import torch

from mlp_workload.weights import Parameters
from reference_torch.model import MLP, HandWritten


def to_canonical(model: HandWritten | MLP) -> Parameters:
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in zip(canonical_names(model), model.parameters(), strict=True)
    }


@torch.no_grad()
def load_canonical(model: HandWritten | MLP, parameters: Parameters) -> None:
    """Sets the model's parameters to copies of `parameters`, in the model's dtype. Names and shapes must fit.

    They are copied because torch updates in place, and `from_numpy` could share memory with a JAX array.
    """
    for name, tensor in zip(canonical_names(model), model.parameters(), strict=True):
        tensor.copy_(torch.tensor(parameters[name]))


def to_state_dict(model: MLP, parameters: Parameters) -> dict[str, torch.Tensor]:
    """Returns a `state_dict` for `model` with copies of `parameters`, in their own dtype."""
    return {
        key: torch.tensor(parameters[name])
        for key, name in zip(model.state_dict(), canonical_names(model), strict=True)
    }


def canonical_names(model: HandWritten | MLP) -> list[str]:
    """Returns the names of `model.parameters()`, in their order."""
    layers = sum(1 for _ in model.parameters()) // 2
    return [f"layers.{layer}.{kind}" for layer in range(layers) for kind in ("weight", "bias")]
