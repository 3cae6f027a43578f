"""Edges of training side by side: what may not pass, and what may not alarm."""

import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from torch import nn, optim

import twincheck as tc
from mlp_workload.errors import UserError
from twincheck import training
from twincheck.optimizer_causes import StateRecord, explain_state, explain_updates
from twincheck.pairs import Pair
from twincheck.training import _repeated
from twincheck.update_rules import UpdateRecord

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


def test_a_loss_that_is_nan_in_both_is_no_mismatch() -> None:
    diverged = [(np.full_like(x, np.nan), targets) for x, targets in BATCHES]
    assert train(linear_pair(), sgd(lr=0.1), optax.sgd(0.1), diverged).first is None


def test_a_loss_with_an_axis_of_no_values_is_compared() -> None:
    pair, empty = linear_pair(), np.zeros((len(X), 0))
    result = tc.train(
        pair, [(X, empty)], 1, torch_optimizer=sgd(lr=0.1), optax=optax.sgd(0.1),
        torch_loss=lambda output, _: output.sum(), jax_loss=lambda output, _: output.sum() * 1.5,
    )  # fmt: skip
    assert result.first.kind == "loss"
    assert result.findings[0].name == "loss"


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
        return (jax.lax.optimization_barrier(y.astype(jnp.float32) + 1e4) - 1e4).astype(y.dtype)


def test_a_step_that_is_cleared_clears_no_other() -> None:
    torch.manual_seed(0)
    pair = tc.pair(tc.torch(TorchCancelling(), X), tc.nnx(JaxCancelling(), X))
    (x, targets), *_ = BATCHES
    assert train(pair, sgd(lr=1e-3), optax.sgd(1e-3), [(x, targets)]).same
    result = train(pair, sgd(lr=1e-3), optax.sgd(1e-3), [(x, targets), (100 * x, targets)])
    assert result.first is not None, str(result)
    assert (result.first.kind, result.first.step) == ("output", 1)


def test_a_difference_that_is_cleared_is_a_note_and_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[Any] = []
    check = Pair.check
    monkeypatch.setattr(Pair, "check", lambda self: checks.append(self) or check(self))
    torch.manual_seed(0)
    pair = tc.pair(tc.torch(TorchCancelling(), X), tc.nnx(JaxCancelling(), X))
    result = train(pair, sgd(lr=1e-20), optax.sgd(1e-20), BATCHES[:1], steps=4)
    assert result.same, str(result)
    assert len(checks) == 1
    (note,) = (note for note in result.notes if "output 0" in note)
    assert f"{result.largest['output'].relative:.1e} of its size" in note


class JaxWithBias(JaxCancelling):
    """Has one more bias, which torch lacks and which is 0 in the pair."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nnx.Param(jnp.zeros((1, 3)))

    def __call__(self, x: Any) -> Any:
        return super().__call__(x) + self.extra[...]


def test_a_difference_stays_if_the_check_finds_the_models_not_the_same() -> None:
    """Here the check finds no place out: only a parameter has no counterpart."""
    torch.manual_seed(0)
    pair = tc.pair(tc.torch(TorchCancelling(), X), tc.nnx(JaxWithBias(), X))
    report = pair.check()
    assert not report.findings
    assert not report.same
    result = train(pair, sgd(lr=1e-3), optax.sgd(1e-3), BATCHES[:1])
    assert (result.first.kind, result.first.step) == ("output", 0), str(result)
    assert [finding.says for finding in result.findings] == [f"step 0: {report.verdict}."]


class Fresh:
    """Batches that are made anew in each pass over them; `alive` are those that still exist."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[Batch] = weakref.WeakSet()
        self.most = 0

    def __iter__(self) -> Iterator[Any]:
        for x, targets in BATCHES * 3:
            batch = x.copy().view(Batch)
            self.alive.add(batch)
            self.most = max(self.most, len(self.alive))
            yield batch, targets
            del batch


class Batch(np.ndarray):
    """An array that is compared and hashed as an object."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def test_batches_are_not_kept() -> None:
    batches = Fresh()
    for number, _ in enumerate(_repeated(batches, 20)):
        assert number < 20
    assert batches.most <= 3


@pytest.mark.parametrize("batches", [BATCHES, iter(BATCHES)])
def test_batches_are_repeated(batches: Any) -> None:
    assert [id(x) for x, _ in _repeated(batches, 5)] == [id(BATCHES[i % 2][0]) for i in range(5)]


@pytest.mark.parametrize("steps", [0, -1])
def test_there_is_at_least_one_step(steps: int) -> None:
    with pytest.raises(UserError, match=f"at least 1, not {steps}"):
        train(linear_pair(), sgd(lr=0.1), optax.sgd(0.1), steps=steps)


def biases_updated(*updates: tuple[float, float]) -> list[UpdateRecord]:
    """Returns one record for each step, with torch's update and optax's of a bias that is two biases in torch."""
    records = [UpdateRecord(1.0) for _ in updates]
    for record, (theirs, ours) in zip(records, updates, strict=True):
        arrays = [np.array([number]) for number in (0.0, 1.0, 1.0, theirs, ours)]
        record.add("bias", "bias_ih", None, 1e-20, True, arrays, 1.0)
    return records


@pytest.mark.parametrize(
    ("updates", "names"),
    [
        ([(2e-9, 1e-9), (4e-9, 2e-9)], ["two-biases"]),
        ([(5e-9, 1e-9)], []),
        ([(2.0, 1.0), (3.0, 1.0)], []),
    ],
)
def test_two_biases_are_twice_the_update_in_every_step(updates: list[tuple[float, float]], names: list[str]) -> None:
    found, unexplained = explain_updates(biases_updated(*updates), ["bias"], {})
    assert [finding.name for finding, _ in found] == names
    assert unexplained == ([] if names else ["bias"])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_torch_that_maximizes_is_named(decay: float) -> None:
    result = train(
        linear_pair(), sgd(lr=0.1, maximize=True, weight_decay=decay),
        optax.chain(optax.add_decayed_weights(decay), optax.sgd(0.1)),
    )  # fmt: skip
    (finding,) = result.findings
    assert finding.name == "sign"
    assert "maximize=True" in finding.says


def test_the_signature_of_train_is_spelled_out() -> None:
    public, own = (
        [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]
        for function in (tc.train, training.train)
    )
    assert public == own


def frozen_pair(*names: str) -> Any:
    model = TorchLinear()
    for name in names:
        model.linear.get_parameter(name).requires_grad_(False)
    return tc.pair(tc.torch(model, X), tc.nnx(JaxLinear(), X))


def test_a_layer_that_torch_froze_stays_frozen() -> None:
    pair = frozen_pair("bias")
    result = train(pair, sgd(lr=0.1), optax.sgd(0.1))
    assert [finding.name for finding in result.findings] == ["frozen"]
    assert result.drift > 1e-3
    assert not result.notes
    masked = optax.partition(
        {"kept": optax.set_to_zero(), "trained": optax.sgd(0.1)},
        lambda parameters: {name: "kept" if name.endswith("bias") else "trained" for name in parameters},
    )
    result = train(pair, sgd(lr=0.1), masked)
    assert result.same, str(result)


def test_a_model_that_is_all_frozen_cannot_be_trained() -> None:
    with pytest.raises(UserError, match="no parameters to train"):
        train(frozen_pair("weight", "bias"), sgd(lr=0.1), optax.sgd(0.1))


class DropPath(nn.Module):
    """Drops samples at random in training, with a rate that twincheck does not know."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.linear, self.norm = rate, nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, x: Any) -> Any:
        y = self.norm(self.linear(x))
        return y * (torch.rand(len(x), 1) >= self.rate).to(y) if self.training else y


def test_a_model_that_stays_random_in_training_is_refused() -> None:
    with pytest.raises(UserError, match="random with train=True: set its dropout rates to 0"):
        tc.torch(DropPath(0.5), X, train=True)
    tc.torch(DropPath(0.5), X)
    tc.torch(DropPath(0.0), X, train=True)


class TorchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)

    def forward(self, x: Any) -> Any:
        return self.norm(self.linear(x))


class LinenNorm(linen.Module):
    momentum: float

    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Dense(3, name="linear")(x)
        return linen.BatchNorm(False, momentum=self.momentum, name="norm")(x)


@pytest.mark.parametrize(("kept", "line"), [("ours", "the JAX model leaves"), ("theirs", "torch leaves")])
def test_running_statistics_that_one_side_leaves_are_named(kept: str, line: str) -> None:
    before, after = np.arange(3.0), np.ones(3)
    arrays = {"ours": after, "theirs": after} | {kept: before}
    (finding,) = explain_state([StateRecord("norm.mean", 0.1, before, **arrays)])
    assert finding.name == "running-statistics"
    assert finding.says.startswith(line)


def test_running_statistics_of_linen_are_compared() -> None:
    torch.manual_seed(0)
    module = LinenNorm(0.8)
    jax_side = tc.linen(module, module.init(jax.random.key(0), X), X)
    result = train(tc.pair(tc.torch(TorchNorm(), X, train=True), jax_side), sgd(lr=0.1), optax.sgd(0.1))
    assert {finding.name for finding in result.findings} == {"batch-norm-momentum", "batch-norm-running-variance"}, str(
        result
    )
    assert result.first.kind == "state"
    assert not any("not compared" in note for note in result.notes)
