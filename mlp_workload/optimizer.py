"""Optimizers: the slots that each keeps, and its rule in NumPy, which each framework's own must match.

A slot is an array of the shape of a parameter, that of `layers.0.weight` is `layers.0.weight.momentum`. Each side's
`optimizer.py` maps the state of its framework's optimizer to slots and back.
"""

import numpy as np

from mlp_workload.config import Config
from mlp_workload.weights import Parameters, Shapes

SLOTS = {"momentum": 1}
"""Names of all slots, and the power of the gradient that each sums up."""


def slots(config: Config) -> tuple[str, ...]:
    """Returns the names of the slots that the run's optimizer keeps for each parameter."""
    return ("momentum",) if config.momentum else ()


def state_shapes(config: Config, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a trainer's state: of the parameters, which are given, and the optimizer's."""
    return {**shapes, **{f"{name}.{slot}": shape for slot in slots(config) for name, shape in shapes.items()}}


def initial_state(config: Config, parameters: Parameters) -> Parameters:
    """Returns copies of the parameters with the optimizer's state before the first step, which is 0."""
    shapes = state_shapes(config, {name: array.shape for name, array in parameters.items()})
    zeros = {name: np.zeros(shape, config.dtype) for name, shape in shapes.items()}
    return zeros | {name: array.astype(config.dtype) for name, array in parameters.items()}


def update(config: Config, state: Parameters, gradients: Parameters) -> Parameters:
    """Returns the state after a step from `state`, given the gradients by names of parameters.

    g += weight_decay p; v = momentum v + g; p -= learning_rate (g + momentum v if nesterov else v).
    """
    after: Parameters = {}
    for name, gradient in gradients.items():
        change = gradient + config.weight_decay * state[name]
        if config.momentum:
            velocity = after[f"{name}.momentum"] = config.momentum * state[f"{name}.momentum"] + change
            change = change + config.momentum * velocity if config.nesterov else velocity
        after[name] = state[name] - config.learning_rate * change
    return after
