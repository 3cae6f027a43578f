"""The comparison of settings finds what is planted, and nothing in right pairs; optax's settings are read."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from pairs import HYPOTHESIS_PAIRS, SETTING_PAIRS, Pair
from torch import nn

from twincheck.causes.optax_settings import optax_settings
from twincheck.causes.settings import SETTINGS, SettingMismatch, compare_settings, simple_attributes
from twincheck.causes.table import BY_NAME


def mismatches(pair: Pair, net: nnx.Module) -> list[SettingMismatch]:
    """Returns what differs between the layers of the same names."""
    model, _ = pair.torch()
    found = []
    for name, layer in model.named_children():
        other = getattr(net, name, None)
        if other is not None:
            found += compare_settings(
                type(layer).__name__, simple_attributes(layer), type(other).__name__, simple_attributes(other)
            )
    return found


@pytest.mark.parametrize("pair", SETTING_PAIRS, ids=lambda pair: pair.cause)
def test_a_planted_setting_is_found(pair: Pair) -> None:
    assert {mismatch.cause for mismatch in mismatches(pair, pair.wrong())} == {pair.cause}


RIGHT_PAIRS = [
    pair
    for pair in (*SETTING_PAIRS, *HYPOTHESIS_PAIRS)
    if pair.cause not in ("conv-padding-end", "conv-padding-causal")  # torch pads before the layer
]


@pytest.mark.parametrize("pair", RIGHT_PAIRS, ids=lambda pair: pair.cause)
def test_nothing_is_found_in_a_right_pair(pair: Pair) -> None:
    assert mismatches(pair, pair.right()) == []


def test_a_mismatch_says_both_values() -> None:
    (mismatch,) = compare_settings("BatchNorm2d", {"momentum": 0.1}, "BatchNorm", {"momentum": 0.1})
    assert str(mismatch) == "torch has momentum=0.1, so JAX needs momentum=0.9; it has 0.1"


@pytest.mark.parametrize(
    ("cause", "torch_layer", "jax_kind", "settings"),
    [
        ("padding-index", nn.Embedding(3, 4, padding_idx=0), "Embed", {"num_embeddings": 3}),
        ("embedding-max-norm", nn.Embedding(3, 4, max_norm=1.0), "Embed", {"num_embeddings": 3}),
        ("leaky-slope", nn.LeakyReLU(0.2), "LeakyReLU", {"negative_slope": 0.01}),
        ("gru-two-biases", nn.GRUCell(3, 4), "GRUCell", {"in_features": 3}),
        ("attention-heads", nn.MultiheadAttention(8, 2), "MultiHeadAttention", {"num_heads": 4}),
        ("norm-epsilon", nn.LayerNorm(4), "LayerNorm", {"eps": 1e-6}),
        ("batch-norm-momentum", nn.BatchNorm1d(4), "BatchNorm", {"decay_rate": 0.99}),
        ("batch-norm-mode", nn.BatchNorm1d(4).eval(), "BatchNorm", {"use_running_average": False}),
        ("conv-padding", nn.Conv1d(1, 1, 3), "Conv", {"kernel_size": (3,), "padding": "CAUSAL"}),
        ("conv-padding", nn.Conv1d(1, 1, 5, padding="same"), "Conv", {"kernel_size": (5,), "padding": "VALID"}),
        ("conv-strides", nn.Conv2d(1, 1, 3, stride=2), "Conv2d", {"stride": (1, 1)}),
    ],
)
def test_other_settings(cause: str, torch_layer: nn.Module, jax_kind: str, settings: dict[str, Any]) -> None:
    found = compare_settings(type(torch_layer).__name__, simple_attributes(torch_layer), jax_kind, settings)
    assert [mismatch.cause for mismatch in found] == [cause]


def test_same_padding_of_a_strided_convolution_is_left_open() -> None:
    settings = {"kernel_size": (3, 3), "padding": "SAME", "strides": 2}
    assert compare_settings("Conv2d", simple_attributes(nn.Conv2d(1, 1, 3, 2, padding=1)), "Conv", settings) == []


def test_tied_weights() -> None:
    (mismatch,) = compare_settings("Linear", {"tied": True}, "Linear", {"in_features": 3})
    assert mismatch.cause == "tied-weights"


def test_every_setting_has_a_cause() -> None:
    assert {setting.cause for setting in SETTINGS} <= set(BY_NAME)


Optimizer = Callable[[list[torch.Tensor]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, tuple[Optimizer, optax.GradientTransformation, optax.GradientTransformation]] = {
    "weight-decay": (torch.optim.AdamW, optax.adamw(1e-3, weight_decay=1e-2), optax.adamw(1e-3)),
    "weight-decay-order": (
        lambda p: torch.optim.Adam(p, 1e-2, weight_decay=0.1),
        optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-2)),
        optax.adamw(1e-2, weight_decay=0.1),
    ),
    "adam-epsilon": (lambda p: torch.optim.Adam(p, 1e-2, eps=1e-3), optax.adam(1e-2, eps=1e-3), optax.adam(1e-2)),
    "adam-epsilon-root": (lambda p: torch.optim.Adam(p, 1e-2), optax.adam(1e-2), optax.adam(1e-2, eps_root=1e-3)),
    "adam-betas": (
        lambda p: torch.optim.Adam(p, 1e-2, betas=(0.8, 0.99)),
        optax.adam(1e-2, b1=0.8, b2=0.99),
        optax.adam(1e-2, b1=0.8),
    ),
    "rmsprop-decay": (
        lambda p: torch.optim.RMSprop(p, 1e-2),
        optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False),
        optax.rmsprop(1e-2, eps_in_sqrt=False),
    ),
    "rmsprop-epsilon-root": (
        lambda p: torch.optim.RMSprop(p, 1e-2, eps=1e-3),
        optax.rmsprop(1e-2, decay=0.99, eps=1e-3, eps_in_sqrt=False),
        optax.rmsprop(1e-2, decay=0.99, eps=1e-3),
    ),
    "sgd-momentum": (
        lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True),
        optax.sgd(1e-2, momentum=0.9, nesterov=True),
        optax.sgd(1e-2, momentum=0.9),
    ),
    "adagrad-accumulator": (
        lambda p: torch.optim.Adagrad(p, 1e-2),
        optax.adagrad(1e-2, initial_accumulator_value=0.0, eps=1e-20),
        optax.adagrad(1e-2, eps=1e-20),
    ),
    "learning-rate": (lambda p: torch.optim.SGD(p, 1e-2), optax.sgd(1e-2), optax.sgd(2e-2)),
}
START = np.linspace(-1.0, 1.0, 7)
GRADIENTS = np.sin(np.arange(35.0)).reshape(5, 7) * 0.1 + 0.05


def torch_steps(optimizer: Optimizer) -> tuple[np.ndarray, dict[str, Any], str]:
    weights = torch.tensor(START, requires_grad=True)
    steps = optimizer([weights])
    for gradient in GRADIENTS:
        weights.grad = torch.tensor(gradient)
        steps.step()
    (group,) = steps.param_groups
    return weights.detach().numpy(), group, type(steps).__name__


def optax_steps(transformation: optax.GradientTransformation) -> np.ndarray:
    weights = jnp.asarray(START)
    state = transformation.init(weights)
    for gradient in GRADIENTS:
        updates, state = transformation.update(jnp.asarray(gradient), state, weights)
        weights = jnp.asarray(optax.apply_updates(weights, updates))
    return np.asarray(weights)


@pytest.mark.parametrize("cause", OPTIMIZERS)
def test_optimizers(cause: str) -> None:
    optimizer, right, wrong = OPTIMIZERS[cause]
    theirs, group, kind = torch_steps(optimizer)

    np.testing.assert_allclose(optax_steps(right), theirs, rtol=0, atol=1e-6)
    assert compare_settings(kind, group, "optax", optax_settings(right)) == []
    assert np.abs(optax_steps(wrong) - theirs).max() > 1e-5
    assert [m.cause for m in compare_settings(kind, group, "optax", optax_settings(wrong))] == [cause]


@pytest.mark.parametrize(
    ("cause", "optimizer", "transformation"),
    [
        ("nadam-momentum-decay", torch.optim.NAdam, optax.nadam(2e-3)),
        ("adagrad-epsilon", torch.optim.Adagrad, optax.adagrad(1e-2, initial_accumulator_value=0.0)),
        (
            "adagrad-lr-decay",
            lambda p: torch.optim.Adagrad(p, lr_decay=0.1),
            optax.adagrad(1e-2, initial_accumulator_value=0.0, eps=1e-20),
        ),
        ("amsgrad", lambda p: torch.optim.Adam(p, amsgrad=True), optax.amsgrad(1e-3)),
        ("adam-nesterov", torch.optim.Adam, optax.nadam(1e-3)),
        (
            "sgd-dampening",
            lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, dampening=0.5),
            optax.sgd(1e-3, momentum=0.9),
        ),
        ("maximize", lambda p: torch.optim.SGD(p, 1e-3, maximize=True), optax.sgd(1e-3)),
    ],
)
def test_what_optax_lacks(cause: str, optimizer: Optimizer, transformation: optax.GradientTransformation) -> None:
    _, group, kind = torch_steps(optimizer)
    assert [m.cause for m in compare_settings(kind, group, "optax", optax_settings(transformation))] == [cause]


def test_onecycle_cycles_the_momentum() -> None:
    adam = torch.optim.Adam([torch.zeros(3, requires_grad=True)])
    torch.optim.lr_scheduler.OneCycleLR(adam, 0.1, total_steps=10)
    schedule = optax.cosine_onecycle_schedule(10, 0.1)
    found = compare_settings("Adam", adam.param_groups[0], "optax", optax_settings(optax.adam(schedule, b1=0.95)))
    assert [mismatch.cause for mismatch in found] == ["onecycle-momentum"]


def test_chains_are_read() -> None:
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.chain(optax.adam(0.1), optax.identity()))
    settings = optax_settings(chain)
    assert settings["clip_by_global_norm.max_norm"] == 1.0
    assert settings["scale_by_adam.b1"] == 0.9
    assert settings["learning_rate"] == 0.1
    assert optax_settings(optax.masked(optax.adamw(0.1), jax.tree.map(lambda _: True, [0])))["decoupled"]
