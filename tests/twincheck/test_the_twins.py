"""The two models of this project are one by its own check, and so are their optimizers."""

import numpy as np
import optax
import pytest
import torch

import jax_mlp.model
import jax_mlp.optimizer
import reference_torch.model
import reference_torch.optimizer
import twincheck as tc
from mlp_workload.config import Config

WIDTHS = (12, 8, 6, 10)
X = np.random.default_rng(0).normal(size=(20, 12)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 10, 20)
OPTIMIZERS = {
    "momentum": {"momentum": 0.9, "weight_decay": 1e-3},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2},
}


def pair(config):
    torch.manual_seed(0)
    theirs, ours = reference_torch.model.MLP(config, WIDTHS), jax_mlp.model.build_model(config, WIDTHS)
    return tc.pair(tc.torch(theirs, X), tc.nnx(ours, X))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_the_models_are_the_same(activation):
    report = pair(Config(dtype="float64", activation=activation)).check("float64")
    assert report.same, str(report)
    assert len(report.pairing.links) == 3


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_optimizers_are_the_same(settings):
    config = Config(dtype="float64", **settings)
    result = pair(config).train(
        [(X, LABELS)],
        steps=5,
        torch_optimizer=lambda model: reference_torch.optimizer.make_optimizer(config, model.parameters()),
        optax=jax_mlp.optimizer.make_optimizer(config),
        torch_loss=torch.nn.functional.cross_entropy,
        jax_loss=lambda logits, y: optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(),
    )
    assert result.same, str(result)
