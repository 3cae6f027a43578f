"""Cross-entropy of logits in both frameworks, and what the tutorial makes of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tolerances import ENTROPY, PRINTED

import examples.numpy_side.mlp
import jax_mlp.loss
import reference_torch.loss
from examples.numpy_side.mlp import forward_backward, one_hot
from mlp_workload.config import PRESETS
from mlp_workload.metrics import Evaluation
from reference_torch.trainer import Trainer

SIDES = {"jax": (jax_mlp.loss.cross_entropy, jnp.asarray), "torch": (reference_torch.loss.cross_entropy, torch.tensor)}
side = pytest.mark.parametrize("side", SIDES)


@side
@pytest.mark.parametrize(("smoothing", "expected"), [(0.0, 0.417030), (0.1, 0.513697)])
def test_three_logits(side, smoothing, expected):
    cross_entropy, array = SIDES[side]
    loss = cross_entropy(array(np.array([[2.0, 1.0, 0.1]])), array(np.array([0])), smoothing)
    PRINTED.assert_close(loss.mean, expected)


def losses_by_numpy(logits, labels, smoothing):
    return examples.numpy_side.mlp.cross_entropy(logits, one_hot(labels, logits.shape[1], smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "labels",
    [
        [3, 10],
        [3, -1],
        [3, -100],  # torch's default for ignore_index
        [3, np.iinfo(np.int64).min],
        np.array([3, 200], np.uint8),
        [3.0, 1.0],
        [True, False],
        [[0.1] * 10] * 2,  # torch's cross_entropy takes probabilities too
        [[3], [1]],
        [3],
        3,
    ],
    ids=str,
)
@pytest.mark.parametrize("side", [*SIDES, "numpy"])
def test_labels_that_are_not_a_class_for_each_example_are_an_error(side, labels, smoothing):
    cross_entropy, array = (losses_by_numpy, np.asarray) if side == "numpy" else SIDES[side]
    labels = np.asarray(labels) if side == "jax" else array(np.asarray(labels))  # jnp.asarray would wrap int64
    with pytest.raises((ValueError, IndexError)):
        cross_entropy(array(np.zeros((2, 10))), labels, smoothing)


@side
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
def test_labels_of_any_integer_type_are_classes(side, dtype):
    cross_entropy, array = SIDES[side]
    losses = cross_entropy(array(np.eye(3)), array(np.arange(3, dtype=dtype))).per_example
    ENTROPY["float32"].assert_close(losses, np.log(np.e + 2) - 1)


@side
def test_equal_logits(side):
    cross_entropy, array = SIDES[side]
    labels = np.arange(1000) % 10
    losses = np.asarray(cross_entropy(array(np.zeros((1000, 10))), array(labels)).per_example)
    evaluation = Evaluation(losses, np.zeros(1000, int), labels, np.zeros(10, bool), np.zeros(1000))
    PRINTED.assert_close(evaluation.loss, 2.302585)
    PRINTED.assert_close(evaluation.article_loss(200), 0.011513)


@side
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sum_count_mean_and_examples_match_numpy(side, smoothing, dtype):
    cross_entropy, array = SIDES[side]
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (37, 10)), rng.integers(0, 10, 37)
    parameters = {"layers.0.weight": np.eye(10), "layers.0.bias": np.zeros(10)}
    expected = forward_backward(parameters, ["none"], logits, labels, smoothing)["loss"]
    loss = cross_entropy(array(logits.astype(dtype)), array(labels), smoothing)
    assert loss.per_example.shape == (37,)
    assert loss.count == 37
    ENTROPY[dtype].assert_close(loss.mean, expected)
    ENTROPY[dtype].assert_close(loss.sum, 37 * expected)


def test_huge_logits_stay_finite_in_both():
    logits, labels = np.array([[1e4, 0.0, -1e4]]), np.array([1])
    assert float(jax_mlp.loss.cross_entropy(jnp.asarray(logits), jnp.asarray(labels)).mean) == 1e4
    assert float(reference_torch.loss.cross_entropy(torch.tensor(logits), torch.tensor(labels)).mean) == 1e4


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("label", [10, -1])
def test_inside_jit_a_label_outside_the_classes_makes_its_loss_nan(label, smoothing):
    loss = jax.jit(lambda logits, labels: jax_mlp.loss.cross_entropy(logits, labels, smoothing).per_example)
    assert np.isnan(loss(jnp.zeros((3, 10)), jnp.array([3, label, 0]))).tolist() == [False, True, False]


def test_the_check_of_labels_does_not_stop_jit():
    loss = jax.jit(lambda logits, labels: jax_mlp.loss.cross_entropy(logits, labels).mean)
    PRINTED.assert_close(loss(jnp.zeros((4, 10)), jnp.arange(4)), 2.302585)


def test_labels_that_jit_closes_over_are_known():
    def loss(labels):
        return jax.jit(lambda logits: jax_mlp.loss.cross_entropy(logits, labels).mean)

    PRINTED.assert_close(loss(jnp.arange(4))(jnp.zeros((4, 10))), 2.302585)
    with pytest.raises(ValueError, match="label 10, expected 0 to 9"):
        loss(jnp.array([3, 10, 0, 0]))(jnp.zeros((4, 10)))


def test_torchs_trainer_skips_no_label(digits):
    config = dataclasses.replace(PRESETS["leaky"], hidden=(5,), batch_size=50, device="cpu")
    trainer = Trainer(config, digits, None)
    trainer._labels[0] = -100  # torch's default for ignore_index; no `Dataset` holds such a label
    with pytest.raises(IndexError):
        trainer.train_steps(np.arange(50, dtype=np.int32))
