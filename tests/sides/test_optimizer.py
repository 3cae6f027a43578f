"""The optimizers: optax in our chain against torch and against the formulas, and the names of their state."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from tolerances import ADAM_UPDATE, EXACT_ADAM_STEP, UPDATE

import jax_mlp.optimizer
import reference_torch.optimizer
from mlp_workload.config import Config
from mlp_workload.optimizer import SLOTS, STEPS, initial_state, state_shapes, update

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


ADAM = [
    {},
    {"weight_decay": 0.1},
    {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3, "weight_decay": 0.1},
    {"beta1": 0.0, "beta2": 0.0},
]
NAME = "layers.0.weight"


@pytest.mark.parametrize("kind", ["adam", "adamw"])
@pytest.mark.parametrize("settings", ADAM)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_many_steps_of_adam_follow_torch_and_the_rule(kind, settings, dtype):
    """Gradients of all sizes, from far above epsilon to far below it."""
    config = Config(optimizer=kind, learning_rate=0.01, dtype=dtype, **settings)
    rng = np.random.default_rng(0)
    start = rng.normal(size=9).astype(dtype)
    gradients = (rng.normal(size=(200, 9)) * 10.0 ** np.arange(-12, 6, 2)).astype(dtype)
    optimizer = jax_mlp.optimizer.make_optimizer(config)
    params = jnp.asarray(start)
    state = optimizer.init(params)
    tensor = torch.tensor(start, requires_grad=True)
    reference = reference_torch.optimizer.make_optimizer(config, [tensor])
    expected = initial_state(replace(config, dtype="float64"), {NAME: start})
    for g in gradients:
        updates, state = optimizer.update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
        tensor.grad = torch.tensor(g)
        reference.step()
        expected = update(config, expected, {NAME: g.astype(np.float64)})
        assert params.dtype == dtype
        ADAM_UPDATE[dtype].assert_close(params, expected[NAME])
        ADAM_UPDATE[dtype].assert_close(tensor.detach(), expected[NAME])
    assert expected[STEPS] == 200


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_float32_does_not_spoil_the_bias_correction(steps):
    """The change of a parameter from 0 by equal gradients is the learning rate; optax's own is 1e-5 off."""
    optimizer = jax_mlp.optimizer.scale_by_adam(0.9, 0.999, 1e-8)
    with jax.enable_x64(False):
        gradient = jnp.ones(3, "float32")
        state = optimizer.init(gradient)
        for _ in range(steps):
            updates, state = optimizer.update(gradient, state)
        EXACT_ADAM_STEP.assert_close(updates, 1)


STATE = {"layers.0.weight": (3, 2), "layers.0.bias": (3,)}


@pytest.mark.parametrize(
    ("settings", "slots"),
    [
        ({}, []),
        ({"momentum": 0.9}, ["momentum"]),
        ({"optimizer": "adam"}, ["first_moment", "second_moment"]),
        ({"optimizer": "adamw"}, ["first_moment", "second_moment"]),
    ],
)
def test_a_state_has_the_slots_of_its_optimizer(settings, slots):
    steps = {STEPS: ()} if "optimizer" in settings else {}
    expected = STATE | {f"{name}.{slot}": shape for slot in slots for name, shape in STATE.items()} | steps
    assert state_shapes(Config(**settings), STATE) == expected
    assert set(jax_mlp.optimizer._FIELDS) == set(reference_torch.optimizer._FIELDS) == set(SLOTS)
