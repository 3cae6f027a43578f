"""Edges of training side by side: what may not pass, and what may not alarm."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn, optim

import twincheck as tc

X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
BATCHES = [(X, X[:, :3]), (X[::-1].copy(), X[:, 1:])]


class JaxLinear(nnx.Module):
    def __init__(self) -> None:
        self.linear = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.linear(x)


class TorchLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.linear(x)


def linear_pair() -> Any:
    torch.manual_seed(0)
    return tc.pair(tc.torch(TorchLinear(), X), tc.nnx(JaxLinear(), X))


def loss(output: Any, targets: Any) -> Any:
    return ((output - targets) ** 2).mean()


def sgd(**settings: Any) -> Callable[[nn.Module], Any]:
    return lambda model: optim.SGD(model.parameters(), **settings)


def train(pair: Any, torch_optimizer: Any, transformation: Any, batches: Any = BATCHES, steps: int = 2) -> Any:
    return tc.train(
        pair, batches, steps, torch_optimizer=torch_optimizer, optax=transformation, torch_loss=loss, jax_loss=loss
    )


def scaled(factor: Callable[[Any], Any]) -> optax.GradientTransformation:
    """Returns SGD whose updates are multiplied by a factor."""
    return optax.chain(optax.sgd(0.1), optax.stateless_with_tree_map(lambda g, _: g * factor(g)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_out(value: float) -> None:
    result = train(linear_pair(), sgd(lr=0.1), scaled(lambda _: value))
    assert not result.same
    assert result.first.kind == "update"


def test_a_float32_update_that_is_not_finite_allows_nothing() -> None:
    result = train(linear_pair(), sgd(lr=0.1), scaled(lambda g: 1 + jnp.cos(g) if g.dtype == jnp.float64 else np.nan))
    assert {finding.name for finding in result.findings} == {"unknown"}


def test_an_update_smaller_than_the_parameters_rounding_is_no_mismatch() -> None:
    result = train(linear_pair(), sgd(lr=1e-20), optax.sgd(1e-20))
    assert result.same, str(result)
    assert result.largest["update"].relative < 1e-15


class TorchCancelling(TorchLinear):
    def forward(self, x: Any) -> Any:
        return self.linear(x) + 1e4 - 1e4


class JaxCancelling(JaxLinear):
    """Computes in float32, and doubles large inputs."""

    def __call__(self, x: Any) -> Any:
        x = jnp.where(jnp.abs(x).max() > 10, 2 * x, x)
        y = self.linear(x)
        return (y.astype(jnp.float32) + 1e4 - 1e4).astype(y.dtype)


def test_a_step_that_is_cleared_clears_no_other() -> None:
    torch.manual_seed(0)
    pair = tc.pair(tc.torch(TorchCancelling(), X), tc.nnx(JaxCancelling(), X))
    (x, targets), *_ = BATCHES
    assert train(pair, sgd(lr=1e-3), optax.sgd(1e-3), [(x, targets)]).same
    result = train(pair, sgd(lr=1e-3), optax.sgd(1e-3), [(x, targets), (100 * x, targets)])
    assert result.first is not None, str(result)
    assert (result.first.kind, result.first.step) == ("output", 1)
