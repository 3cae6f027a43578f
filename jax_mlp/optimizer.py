"""The run's optimizer by torch's rules, and the slots of its state."""

from typing import Any

import optax

from jax_mlp.weights import from_canonical, to_canonical
from mlp_workload.config import Config
from mlp_workload.optimizer import slots
from mlp_workload.weights import Parameters

_FIELDS = {"momentum": "trace"}
"""Names of slots in the states of optax."""


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Returns the run's optimizer."""
    return sgd(config.learning_rate, config.momentum, config.nesterov, config.weight_decay)


def slots_to_canonical(config: Config, state: optax.OptState) -> Parameters:
    """Returns copies of the slots of `state`, an optimizer's state on the host, under their canonical names."""
    return {
        f"{name}.{slot}": array
        for slot in slots(config)
        for name, array in to_canonical(optax.tree.get(state, _FIELDS[slot])).items()
    }


def slots_from_canonical(config: Config, like: optax.OptState, arrays: Parameters) -> optax.OptState:
    """Returns an optimizer's state with copies of the slots in `arrays`, in the structure of `like`, maybe abstract."""
    fields: dict[str, Any] = {}
    for slot in slots(config):
        own = {name.removesuffix(f".{slot}"): array for name, array in arrays.items() if name.endswith(f".{slot}")}
        fields[_FIELDS[slot]] = from_canonical(optax.tree.get(like, _FIELDS[slot]), own)
    return optax.tree.set(like, **fields)


def sgd(
    learning_rate: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """g += weight_decay p; v = momentum v + g; p -= learning_rate (g + momentum v if nesterov else v).

    As `torch.optim.SGD` with dampening 0. `optax.sgd` has no weight decay, and its place in a chain decides: here it
    comes before the momentum. The velocity starts at 0, so that after the first step v = g, as in torch.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        optax.trace(momentum, nesterov) if momentum else optax.identity(),
        optax.scale(-learning_rate),
    )
