"""Stochastic gradient descent by torch's rules."""

import optax


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
