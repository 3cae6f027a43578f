"""The run's optimizer, torch's own, and the slots of its state."""

from collections.abc import Iterable, Mapping

import torch

from mlp_workload.config import Config
from mlp_workload.optimizer import slots
from mlp_workload.weights import Parameters

_FIELDS = {"momentum": "momentum_buffer"}
"""Names of slots in the states of torch."""


def make_optimizer(config: Config, parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
    """Returns the run's optimizer of these parameters."""
    return sgd(parameters, config.learning_rate, config.momentum, config.nesterov, config.weight_decay)


def slots_to_canonical(
    config: Config, optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor]
) -> Parameters:
    """Returns copies of the optimizer's slots under their canonical names, given the parameters under theirs."""
    arrays: Parameters = {}
    for slot in slots(config):
        for name, parameter in parameters.items():
            array = optimizer.state[parameter].get(_FIELDS[slot])  # None before the first step
            array = torch.zeros_like(parameter) if array is None else array
            arrays[f"{name}.{slot}"] = array.detach().cpu().numpy().copy()
    return arrays


def slots_from_canonical(
    config: Config, optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor], arrays: Parameters
) -> None:
    """Sets the optimizer's slots to copies of those in `arrays`."""
    for name, parameter in parameters.items():
        for slot in slots(config):
            array = torch.tensor(arrays[f"{name}.{slot}"], dtype=parameter.dtype, device=parameter.device)
            # Without a buffer torch's step is its first: it then begins one, undampened.
            optimizer.state[parameter][_FIELDS[slot]] = array if array.any() else None


def sgd(
    parameters: Iterable[torch.Tensor],
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    fused: bool | None = None,
) -> torch.optim.SGD:
    """g += weight_decay p; v = momentum v + g; p -= learning_rate (g + momentum v if nesterov else v).

    `fused` does it in one kernel, which torch never chooses by itself.
    """
    return torch.optim.SGD(
        parameters, lr=learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, fused=fused
    )
