"""The comparison of settings finds what is planted, and nothing in right pairs."""

from typing import Any

import pytest
from flax import nnx
from planted_nets import Pair
from planted_pairs import HYPOTHESIS_PAIRS
from planted_settings import SETTING_PAIRS
from torch import nn

from twincheck.causes.settings import SETTINGS, SettingMismatch, compare_settings
from twincheck.causes.table import BY_NAME
from twincheck.diagnosis import _notes
from twincheck.recording import plain_settings


def mismatches(pair: Pair, net: nnx.Module) -> list[SettingMismatch]:
    """Returns what differs between the layers of the same names."""
    model, _ = pair.torch()
    found = []
    for name, theirs in model.named_children():
        ours = getattr(net, name, None)
        if ours is not None:
            found += compare_settings(
                type(theirs).__name__, plain_settings(vars(theirs)), type(ours).__name__, plain_settings(vars(ours))
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


def test_an_option_that_the_jax_layer_lacks_is_not_asked_for() -> None:
    (mismatch,) = compare_settings("Embedding", {"padding_idx": 0}, "Embed", {"features": 4})
    assert str(mismatch) == "torch has padding_idx=0, for which the JAX layer has no option"
    (note,) = _notes([("embed", mismatch), ("other", mismatch)], set())
    assert note == f"{mismatch}, at embed and 1 more. Fix: {BY_NAME['padding-index'].fix}"


def test_a_gru_cell_of_equinox_has_torchs_two_biases() -> None:
    assert compare_settings("GRUCell", {"bias": True}, "GRUCell", {"use_bias": True}) == []


def test_a_mode_of_padding_is_a_value_that_flax_takes() -> None:
    settings = plain_settings(vars(nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")))
    (mismatch,) = compare_settings("Conv1d", settings, "Conv", {"kernel_size": (3,), "padding": "SAME"})
    assert mismatch.expected == "CIRCULAR"


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
        ("batch-norm-training", nn.BatchNorm1d(4), "BatchNorm", {"use_running_average": True}),
        ("conv-padding", nn.Conv1d(1, 1, 3), "Conv", {"kernel_size": (3,), "padding": "CAUSAL"}),
        ("conv-padding", nn.Conv1d(1, 1, 5, padding="same"), "Conv", {"kernel_size": (5,), "padding": "VALID"}),
        ("conv-strides", nn.Conv2d(1, 1, 3, stride=2), "Conv2d", {"stride": (1, 1)}),
    ],
)
def test_other_settings(cause: str, torch_layer: nn.Module, jax_kind: str, settings: dict[str, Any]) -> None:
    found = compare_settings(type(torch_layer).__name__, plain_settings(vars(torch_layer)), jax_kind, settings)
    assert [mismatch.cause for mismatch in found] == [cause]


def test_same_padding_of_a_strided_convolution_is_left_open() -> None:
    settings = {"kernel_size": (3, 3), "padding": "SAME", "strides": 2}
    assert compare_settings("Conv2d", plain_settings(vars(nn.Conv2d(1, 1, 3, 2, padding=1))), "Conv", settings) == []


def test_another_class_of_the_same_name_is_left_open() -> None:
    for kind, theirs in (("Conv", nn.Conv2d(1, 1, 3)), ("ConvTranspose", nn.ConvTranspose2d(1, 1, 3))):
        settings = plain_settings(vars(theirs))
        assert compare_settings(type(theirs).__name__, settings, kind, {"padding": 1}) == []


def test_every_setting_has_a_cause() -> None:
    assert {setting.cause for setting in SETTINGS} <= set(BY_NAME)
