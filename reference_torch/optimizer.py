"""The run's optimizer, torch's own, and the slots of its state."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from mlp_workload.config import Config
from mlp_workload.optimizer import STEPS, is_adaptive, slots
from mlp_workload.weights import Parameters

_FIELDS = {"momentum": "momentum_buffer", "first_moment": "exp_avg", "second_moment": "exp_avg_sq"}
"""Names of slots in the states of torch."""


def make_optimizer(config: Config, parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    match config.optimizer:
        case "sgd":
            return sgd(parameters, rate, config.momentum, config.nesterov, decay)
        case "adam" | "adamw":
            adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
            return adam(parameters, lr=rate, betas=(config.beta1, config.beta2), eps=config.epsilon, weight_decay=decay)


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
    if is_adaptive(config):
        first = next(iter(parameters.values()))
        arrays[STEPS] = np.array(float(optimizer.state[first].get("step", 0)), config.dtype)
    return arrays


def slots_from_canonical(
    config: Config, optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.Tensor], arrays: Parameters
) -> None:
    """Sets the optimizer's slots to copies of those in `arrays`."""
    for name, parameter in parameters.items():
        own = optimizer.state[parameter]
        for slot in slots(config):
            own[_FIELDS[slot]] = torch.tensor(arrays[f"{name}.{slot}"], dtype=parameter.dtype, device=parameter.device)
        if is_adaptive(config):
            own["step"] = torch.tensor(float(arrays[STEPS]))
        elif config.momentum and not own[_FIELDS["momentum"]].any():
            own.clear()  # without a buffer torch's step is its first: it then begins one, undampened


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
