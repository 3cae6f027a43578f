"""Stochastic gradient descent: torch's own."""

from collections.abc import Iterable

import torch


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
