"""ReLU sign flips are found and explained by rounding, and their effect on the gradients is exact."""

import dataclasses

import numpy as np
import pytest
from tolerances import FORWARD_BACKWARD, SIGN_FLIP_EFFECT

from examples.numpy_side.mlp import forward_backward
from mlp_compare.parity.sign_flips import find_sign_flips, sign_flip_effect
from mlp_workload.config import PRESETS
from mlp_workload.initial import initial_parameters
from mlp_workload.optimizer import initial_state, slots, update
from twincheck.trace import Trace

WIDTHS = (5, 7, 6, 4)


def trace(parameters, activations, x, labels):
    """Returns the forward pass and gradients of a step in NumPy."""
    return Trace({"inputs": x, **forward_backward(parameters, activations, x, labels)})


def flipped_pair(config, layer, unit, reach=1e-9):
    """Returns two starts that differ in one bias, so little that only one pre-activation of example 2 changes sign."""
    rng = np.random.default_rng(0)
    activations = [config.activation, config.activation, config.logits_activation]
    x, labels = rng.normal(size=(9, 5)), rng.integers(0, 4, 9)
    parameters = initial_parameters("torch_linear", WIDTHS, seed=1)
    z = trace(parameters, activations, x, labels).tensors[f"layers.{layer}.pre_activation"][2, unit]
    starts = []
    for side in (reach, -reach):
        moved = {name: array.copy() for name, array in parameters.items()}
        moved[f"layers.{layer}.bias"][unit] += side - z
        starts.append(moved)
    return starts, [trace(start, activations, x, labels) for start in starts]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("last_activation", ["same", "none"])
@pytest.mark.parametrize(
    "optimizer", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"optimizer": "adam"}]
)
@pytest.mark.parametrize(("layer", "unit"), [(0, 3), (1, 2), (2, 1)])
def test_the_effect_is_the_whole_difference_of_the_gradients(preset, last_activation, optimizer, layer, unit):
    config = dataclasses.replace(PRESETS[preset], last_activation=last_activation, learning_rate=0.1, **optimizer)
    (before_a, _), (a, b) = flipped_pair(config, layer, unit)
    before = initial_state(config, before_a)
    effects = sign_flip_effect(config, a, b, before)
    gradients = [{name: trace.tensors[f"{name}.grad"] for name in before_a} for trace in (a, b)]
    after_a, after_b = (update(config, before, one) for one in gradients)
    factor = -0.1 * (1.9 if config.nesterov else 1)
    seen = False
    for name in before_a:
        change = b.tensors[f"{name}.grad"] - a.tensors[f"{name}.grad"]
        SIGN_FLIP_EFFECT.assert_close(effects[f"{name}.grad"], change)
        for slot in slots(config):
            key = f"{name}.{slot}"
            SIGN_FLIP_EFFECT.assert_close(effects[key], after_b[key] - after_a[key])
        if config.momentum:
            FORWARD_BACKWARD["float64"].assert_close(effects[f"{name}.momentum"], effects[f"{name}.grad"])
        if config.optimizer == "sgd":
            FORWARD_BACKWARD["float64"].assert_close(effects[name], factor * effects[f"{name}.grad"])
        seen |= np.abs(change).max() > 1e-5
    assert seen == (config.activation != "none" and (layer < 2 or last_activation == "same")), "a flip matters"


def test_without_a_sign_flip_there_is_no_effect():
    config = PRESETS["relu"]
    (before, _), (a, _) = flipped_pair(config, 0, 3)
    assert not any(change.any() for change in sign_flip_effect(config, a, a, before).values())


def test_a_sign_flip_is_reported_with_both_values_and_the_reach_of_rounding():
    (before_a, before_b), (a, b) = flipped_pair(PRESETS["leaky"], 1, 2)
    (flip,) = find_sign_flips(PRESETS["leaky"], a, b, before_a, before_b, step=42)
    assert (flip.step, flip.layer, flip.example, flip.unit) == (42, 1, 2, 2)
    assert flip.a == pytest.approx(1e-9)
    assert flip.b == pytest.approx(-1e-9)
    assert flip.explained, "the starts themselves are 2e-9 apart"
    assert str(flip).startswith("step 42, layers.1.pre_activation[2, 2]: 1.00e-09 and -1.00e-09 lie on different")

    (from_common,) = find_sign_flips(PRESETS["leaky"], a, b, before_a, before_a, step=42)
    assert not from_common.explained, "from equal starts, float64 can't be 1e-9 off"
    assert from_common.rounding < 1e-14


def test_rounding_reaches_as_far_as_earlier_differences_of_inputs_weights_and_bias_carry():
    (before, _), (a, b) = flipped_pair(PRESETS["leaky"], 0, 3)
    moved = before | {name: before[name] + by for name, by in (("layers.0.weight", 0.25), ("layers.0.bias", 0.125))}
    b = Trace(dict(b.tensors) | {"inputs": b.tensors["inputs"] + 0.5})
    (flip,) = find_sign_flips(PRESETS["leaky"], a, b, before, moved, step=1)
    x, w = np.abs(a.tensors["inputs"][2]), np.abs(before["layers.0.weight"][3])
    assert flip.rounding == pytest.approx(0.5 * w.sum() + 0.25 * x.sum() + 5 * 0.5 * 0.25 + 0.125)


def test_in_float32_the_same_distance_is_rounding():
    (before, _), pair = flipped_pair(PRESETS["leaky"], 0, 3, reach=1e-7)
    a, b = (Trace({name: np.float32(array) for name, array in start.tensors.items()}) for start in pair)
    (flip,) = find_sign_flips(PRESETS["leaky"], a, b, before, before, step=1)
    assert flip.explained
    (before, _), pair = flipped_pair(PRESETS["leaky"], 0, 3, reach=1e-5)
    a, b = (Trace({name: np.float32(array) for name, array in start.tensors.items()}) for start in pair)
    (flip,) = find_sign_flips(PRESETS["leaky"], a, b, before, before, step=1)
    assert not flip.explained


def test_logits_without_an_activation_have_no_sign_flip():
    config = dataclasses.replace(PRESETS["leaky"], last_activation="none")
    (before_a, before_b), (a, b) = flipped_pair(config, 2, 1)
    assert not list(find_sign_flips(config, a, b, before_a, before_b, step=1))
    assert list(find_sign_flips(PRESETS["leaky"], a, b, before_a, before_b, step=1))
