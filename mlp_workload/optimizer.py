"""Optimizers: the slots that each keeps, and its rule in NumPy, which each framework's own must match.

A slot is an array of the shape of a parameter, that of `layers.0.weight` is `layers.0.weight.momentum`. Each side's
`optimizer.py` maps the state of its framework's optimizer to slots, and for Adam the number of its steps, and back.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.config import Config
from mlp_workload.files import Shapes
from mlp_workload.weights import Array, Parameters

State = Mapping[str, npt.NDArray[Any]]
"""Parameters and the optimizer's state by canonical names."""

SLOTS = {"momentum": 1, "first_moment": 1, "second_moment": 2}
"""Names of all slots, and the power of the gradient that each sums up."""
STEPS = "optimizer.steps"
"""Name of the number of steps so far, a scalar in the run's dtype, which adam and adamw keep."""


def slots(config: Config) -> tuple[str, ...]:
    """Returns the names of the slots that the run's optimizer keeps for each parameter."""
    if is_adaptive(config):
        return "first_moment", "second_moment"
    return ("momentum",) if config.momentum else ()


def is_adaptive(config: Config) -> bool:
    """Returns whether the optimizer divides by the size of the gradients, which amplifies rounding in small ones."""
    return config.optimizer != "sgd"


def state_shapes(config: Config, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a trainer's state: of the parameters, which are given, and the optimizer's."""
    own = {f"{name}.{slot}": shape for slot in slots(config) for name, shape in shapes.items()}
    return {**shapes, **own, **({STEPS: ()} if is_adaptive(config) else {})}


def initial_state(config: Config, parameters: Parameters) -> Parameters:
    """Returns copies of the parameters with the optimizer's state before the first step, which is 0."""
    shapes = state_shapes(config, {name: array.shape for name, array in parameters.items()})
    zeros = {name: np.zeros(shape, config.dtype) for name, shape in shapes.items()}
    return zeros | {name: array.astype(config.dtype) for name, array in parameters.items()}


def update(config: Config, state: State, gradients: Mapping[str, Array]) -> Parameters:
    """Returns the state after a step from `state`, given the gradients by names of parameters."""
    rule = _adam if is_adaptive(config) else _sgd
    return rule(config, state, gradients)


def _sgd(config: Config, state: State, gradients: Mapping[str, Array]) -> Parameters:
    """Returns p - learning_rate (g + momentum v if nesterov else v), with g += weight_decay p, v = momentum v + g."""
    after: Parameters = {}
    for name, gradient in gradients.items():
        change = gradient + config.weight_decay * state[name]
        if config.momentum:
            velocity = after[f"{name}.momentum"] = config.momentum * state[f"{name}.momentum"] + change
            change = change + config.momentum * velocity if config.nesterov else velocity
        after[name] = state[name] - config.learning_rate * change
    return after


def _adam(config: Config, state: State, gradients: Mapping[str, Array]) -> Parameters:
    """Returns p - `adam_change`, where m = beta1 m + (1 - beta1) g and v = beta2 v + (1 - beta2) g^2.

    Before that adamw has p -= learning_rate weight_decay p, and adam g += weight_decay p.
    """
    after: Parameters = {STEPS: np.asarray(state[STEPS] + 1)}
    for name, gradient in gradients.items():
        parameter = state[name]
        if config.optimizer == "adamw":
            parameter = parameter * (1 - config.learning_rate * config.weight_decay)
        else:
            gradient = gradient + config.weight_decay * parameter
        first = config.beta1 * state[f"{name}.first_moment"] + (1 - config.beta1) * gradient
        second = config.beta2 * state[f"{name}.second_moment"] + (1 - config.beta2) * gradient**2
        after |= {f"{name}.first_moment": first, f"{name}.second_moment": second}
        after[name] = parameter - adam_change(config, after, name)
    return after


def adam_change(config: Config, state: State, name: str) -> npt.NDArray[np.float64]:
    """Returns the change of a parameter: learning_rate m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon).

    `state` is the one after the step, with the parameter's moments m and v and the number of steps t.
    """
    first, second = (state[f"{name}.{slot}"].astype(np.float64) for slot in ("first_moment", "second_moment"))
    correction1, correction2 = (1 - np.float64(beta) ** state[STEPS] for beta in (config.beta1, config.beta2))
    root = np.sqrt(second) / correction2**0.5
    return np.asarray(config.learning_rate / correction1 * first / (root + config.epsilon))
