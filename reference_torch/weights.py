"""Converts the parameters of the torch models to and from their canonical names, always by copy."""

import torch

from mlp_workload.weights import Parameters
from reference_torch.model import MLP, HandWritten


def named_parameters(model: HandWritten | MLP) -> dict[str, torch.Tensor]:
    """Returns the model's parameters by their canonical names."""
    tensors = list(model.parameters())
    names = [f"layers.{layer}.{kind}" for layer in range(len(tensors) // 2) for kind in ("weight", "bias")]
    return dict(zip(names, tensors, strict=True))


def to_canonical(model: HandWritten | MLP) -> Parameters:
    """Returns copies of the model's parameters, as `layers.0.weight` (fan_out, fan_in) and `layers.0.bias`."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in named_parameters(model).items()}


@torch.no_grad()
def load_canonical(model: HandWritten | MLP, parameters: Parameters) -> None:
    """Sets the model's parameters to copies of `parameters`, in the model's dtype. Names and shapes must fit.

    They are copied because torch updates in place, and `from_numpy` could share memory with a JAX array.
    """
    for name, tensor in named_parameters(model).items():
        tensor.copy_(torch.tensor(parameters[name]))


def to_state_dict(model: MLP, parameters: Parameters) -> dict[str, torch.Tensor]:
    """Returns a `state_dict` for `model` with copies of `parameters`, in their own dtype."""
    keys = zip(model.state_dict(), named_parameters(model), strict=True)
    return {key: torch.tensor(parameters[name]) for key, name in keys}
