"""Kink crossings: found, shown to be rounding, and their effect on the gradients known to the last digit."""

import dataclasses

import numpy as np
import pytest
from tolerances import CROSSING_EFFECT, FORWARD_BACKWARD

from examples.numpy_side.mlp import forward_backward
from mlp_compare.parity.sign_flips import effect, find_crossings
from mlp_workload.config import PRESETS
from mlp_workload.initial import initial_parameters
from twincheck.trace import Trace

WIDTHS = (5, 7, 6, 4)


def trace(parameters, activations, x, labels):
    """A step's forward pass and gradients by NumPy."""
    return Trace({"inputs": x, **forward_backward(parameters, activations, x, labels)})


def crossed_pair(config, layer, unit, reach=1e-9):
    """Two starts that differ so little in one bias that only pre-activation `unit` of `layer` for example 2 notices."""
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
@pytest.mark.parametrize("optimizer", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
@pytest.mark.parametrize(("layer", "unit"), [(0, 3), (1, 2), (2, 1)])
def test_the_effect_is_the_whole_difference_of_the_gradients(preset, last_activation, optimizer, layer, unit):
    config = dataclasses.replace(PRESETS[preset], last_activation=last_activation, learning_rate=0.1, **optimizer)
    (before_a, _), (a, b) = crossed_pair(config, layer, unit)
    effects = effect(config, a, b, before_a)
    factor = -0.1 * (1.9 if config.nesterov else 1)
    seen = False
    for name in before_a:
        change = b.tensors[f"{name}.grad"] - a.tensors[f"{name}.grad"]
        CROSSING_EFFECT.assert_close(effects[f"{name}.grad"], change)
        FORWARD_BACKWARD["float64"].assert_close(effects[f"{name}.momentum"], effects[f"{name}.grad"])
        FORWARD_BACKWARD["float64"].assert_close(effects[name], factor * effects[f"{name}.grad"])
        seen |= np.abs(change).max() > 1e-5
    assert seen == (config.activation != "none" and (layer < 2 or last_activation == "same")), "a crossing matters"


def test_without_a_crossing_there_is_no_effect():
    config = PRESETS["relu"]
    (before, _), (a, _) = crossed_pair(config, 0, 3)
    assert not any(change.any() for change in effect(config, a, a, before).values())


def test_a_crossing_is_named_with_both_values_and_what_rounding_reaches():
    (before_a, before_b), (a, b) = crossed_pair(PRESETS["leaky"], 1, 2)
    (crossing,) = find_crossings(PRESETS["leaky"], a, b, before_a, before_b, step=42)
    assert (crossing.step, crossing.layer, crossing.example, crossing.unit) == (42, 1, 2, 2)
    assert crossing.a == pytest.approx(1e-9)
    assert crossing.b == pytest.approx(-1e-9)
    assert crossing.explained, "the starts themselves are 2e-9 apart"
    assert str(crossing).startswith("step 42, layers.1.pre_activation[2, 2]: 1.00e-09 and -1.00e-09 lie on different")

    (from_common,) = find_crossings(PRESETS["leaky"], a, b, before_a, before_a, step=42)
    assert not from_common.explained, "from equal starts, float64 can't be 1e-9 off"
    assert from_common.rounding < 1e-14


def test_in_float32_the_same_distance_is_rounding():
    (before, _), pair = crossed_pair(PRESETS["leaky"], 0, 3, reach=1e-7)
    a, b = (Trace({name: np.float32(array) for name, array in one.tensors.items()}) for one in pair)
    (crossing,) = find_crossings(PRESETS["leaky"], a, b, before, before, step=1)
    assert crossing.explained
    (before, _), pair = crossed_pair(PRESETS["leaky"], 0, 3, reach=1e-5)
    a, b = (Trace({name: np.float32(array) for name, array in one.tensors.items()}) for one in pair)
    (crossing,) = find_crossings(PRESETS["leaky"], a, b, before, before, step=1)
    assert not crossing.explained


def test_logits_without_an_activation_have_no_kink():
    config = dataclasses.replace(PRESETS["leaky"], last_activation="none")
    (before_a, before_b), (a, b) = crossed_pair(config, 2, 1)
    assert not list(find_crossings(config, a, b, before_a, before_b, step=1))
    assert list(find_crossings(PRESETS["leaky"], a, b, before_a, before_b, step=1))
