"""Stochastic gradient descent: optax in our chain against torch and against the formula."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from tolerances import UPDATE

import jax_mlp.optimizer
import reference_torch.optimizer

RULES = [
    (0.0, False, 0.0),
    (0.9, False, 0.0),
    (0.9, True, 0.0),
    (0.0, False, 0.1),
    (0.9, False, 0.1),
    (0.5, True, 0.01),
]


@pytest.mark.parametrize(("momentum", "nesterov", "weight_decay"), RULES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_dozen_steps_follow_torch_and_the_formula(momentum, nesterov, weight_decay, dtype):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5).astype(dtype), rng.normal(size=(12, 5)).astype(dtype)
    rule = (0.1, momentum, nesterov, weight_decay)

    optimizer = jax_mlp.optimizer.sgd(*rule)
    params = jnp.asarray(start)
    state = optimizer.init(params)
    tensor = torch.tensor(start, requires_grad=True)
    reference = reference_torch.optimizer.sgd([tensor], *rule)
    p, v = start.astype(np.float64), np.zeros(5)
    for g in gradients:
        updates, state = optimizer.update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
        tensor.grad = torch.tensor(g)
        reference.step()
        decayed = g + weight_decay * p
        v = momentum * v + decayed
        p = p - 0.1 * (decayed + momentum * v if nesterov else v if momentum else decayed)
        assert params.dtype == dtype
        UPDATE[dtype].assert_close(params, p)
        UPDATE[dtype].assert_close(tensor.detach(), p)
