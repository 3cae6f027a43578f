"""The run's optimizer by torch's rules, and the slots of its state."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_mlp.weights import from_canonical, to_canonical
from mlp_workload.config import Config
from mlp_workload.optimizer import STEPS, is_adaptive, slots
from mlp_workload.weights import Parameters

_FIELDS = {"momentum": "trace", "first_moment": "mu", "second_moment": "nu"}
"""Names of slots in the states of optax."""


def make_optimizer(config: Config) -> optax.GradientTransformation:
    match config.optimizer:
        case "sgd":
            return sgd(config.learning_rate, config.momentum, config.nesterov, config.weight_decay)
        case "adam" | "adamw":
            rates = config.learning_rate, config.beta1, config.beta2, config.epsilon, config.weight_decay
            return adam(*rates, decoupled=config.optimizer == "adamw")


def slots_to_canonical(config: Config, state: optax.OptState) -> Parameters:
    """Returns copies of the slots of `state`, an optimizer's state on the host, under their canonical names."""
    arrays = {
        f"{name}.{slot}": array
        for slot in slots(config)
        for name, array in to_canonical(optax.tree.get(state, _FIELDS[slot])).items()
    }
    steps = {STEPS: np.array(optax.tree.get(state, "count"), config.dtype)} if is_adaptive(config) else {}
    return arrays | steps


def slots_from_canonical(config: Config, like: optax.OptState, arrays: Parameters) -> optax.OptState:
    """Returns an optimizer's state with copies of the slots in `arrays`, in the structure of `like`, maybe abstract."""
    fields: dict[str, Any] = {}
    for slot in slots(config):
        own = {name.removesuffix(f".{slot}"): array for name, array in arrays.items() if name.endswith(f".{slot}")}
        fields[_FIELDS[slot]] = from_canonical(optax.tree.get(like, _FIELDS[slot]), own)
    if is_adaptive(config):
        fields["count"] = np.int32(arrays[STEPS])
    state: optax.OptState = optax.tree.set(like, **fields)
    return state


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


def adam(
    learning_rate: float, beta1: float, beta2: float, epsilon: float, weight_decay: float, decoupled: bool
) -> optax.GradientTransformation:
    """Follows `torch.optim.AdamW` if the weight decay is `decoupled` from the gradient, else `torch.optim.Adam`."""
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    scale = scale_by_adam(beta1, beta2, epsilon)
    return optax.chain(*((scale, decay) if decoupled else (decay, scale)), optax.scale(-learning_rate))


def scale_by_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Does what `optax.scale_by_adam` does, with a bias correction that float32 does not spoil.

    In float32, the 1 - 0.999 ** t of optax is 1e-5 off in the first steps; torch computes it in float64.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        first = optax.tree.update_moment(updates, state.mu, beta1, 1)  # type: ignore[no-untyped-call]
        second = optax.tree.update_moment_per_elem_norm(updates, state.nu, beta2, 2)  # type: ignore[no-untyped-call]
        steps = state.count + 1
        correction1, correction2 = (
            -jnp.expm1(steps * (math.log(beta) if beta else -math.inf)) for beta in (beta1, beta2)
        )
        root2 = jnp.sqrt(correction2)
        updates = jax.tree.map(lambda m, v: m / correction1 / (jnp.sqrt(v) / root2 + epsilon), first, second)
        return updates, optax.ScaleByAdamState(steps, first, second)

    return optax.GradientTransformation(optax.scale_by_adam(beta1, beta2).init, update)
