"""Wrong arguments of training side by side: each ends in one line that says what to write."""

import itertools
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel

import twincheck as tc
from mlp_workload.errors import UserError

X = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
Y = X[:, :3]


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


def loss(output: Any, targets: Any) -> Any:
    return ((output - targets) ** 2).mean()


def train(**options: Any) -> Any:
    valid = {
        "batches": [(X, Y)], "steps": 2, "torch_loss": loss, "optax": optax.sgd(0.1),
        "torch_optimizer": lambda model: optim.SGD(model.parameters(), lr=0.1),
    }  # fmt: skip
    torch.manual_seed(0)
    pair = tc.pair(tc.torch(TorchLinear(), X), tc.nnx(JaxLinear(), X))
    return tc.train(**{"pair": pair, **valid, **options})


class Once:
    """Batches that can be asked for once."""

    def __init__(self) -> None:
        self._batches = iter([(X, Y)])

    def __iter__(self) -> Any:
        return self._batches


OTHER = TorchLinear()

WRONG = [
    ({"pair": 3}, "train takes what pair(torch_side, jax_side) returns, not int"),
    ({"dtype": "half"}, 'dtype is "float32" or "float64", not \'half\''),
    ({"dtype": None}, 'dtype is "float32" or "float64", not None'),
    ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
    ({"steps": -1}, "steps must be a whole number of at least 1, not -1"),
    ({"steps": 2.5}, "steps must be a whole number of at least 1, not 2.5"),
    ({"steps": None}, "steps must be a whole number of at least 1, not None"),
    ({"batches": None}, "batches must be a list of (inputs, targets) or yield such, not NoneType"),
    ({"batches": lambda: [(X, Y)]}, "batches must be a list of (inputs, targets) or yield such, not function"),
    ({"batches": (X, Y)}, "a batch is a pair (inputs, targets), not ndarray: write [(inputs, targets)]"),
    ({"batches": Once()}, "batches ended after 1 of 2 steps, and gave none when asked again: give a list"),
    ({"batches": [(X.tolist(), Y)]}, "the inputs of a batch must be arrays or hold such, not list: write np.asarray"),
    ({"batches": [(None, Y)]}, "the inputs of a batch must be arrays or hold such, not NoneType"),
    ({"batches": [(X.astype(str), Y)]}, "the inputs of a batch must be arrays of numbers"),
    ({"batches": [(X[:0], Y[:0])]}, "a batch has no examples"),
    ({"batches": [(X[None], Y)]}, "a batch's input has shape (1, 6, 4), that of the pair (6, 4) in torch"),
    ({"batches": [(X[:, :3], Y)]}, "with inputs as in torch(model, inputs=), and these inputs have shape (6, 3)"),
    ({"batches": [(X, Y.tolist())]}, "torch_loss failed: TypeError"),
    ({"torch_loss": None}, "torch_loss must be a function, not NoneType"),
    ({"torch_loss": lambda output, targets: torch.tensor(1.0)}, "computed from the model's output"),
    ({"torch_loss": nn.functional.mse_loss}, "torch_loss on JAX arrays failed: TypeError"),
    ({"jax_loss": nn.functional.mse_loss}, "jax_loss failed: TypeError"),
    ({"jax_loss": lambda output, targets: output - targets}, "returns one number"),
    ({"jax_inputs": 3}, "jax_inputs must be a function, not int"),
    ({"jax_inputs": lambda x: x.no_such}, "jax_inputs failed: AttributeError"),
    ({"jax_inputs": lambda x: None}, "what jax_inputs returned must be arrays or hold such, not NoneType"),
    ({"jax_average": 3}, "jax_average must be a function, not int"),
    (
        {"torch_optimizer": optax.sgd(0.1)},
        "torch_optimizer takes the model, as lambda model: AdamW(",
    ),
    ({"torch_optimizer": lambda _: optim.SGD(OTHER.parameters(), lr=0.1)}, "must train the model that it is given"),
    ({"torch_optimizer": lambda model: optim.LBFGS(model.parameters())}, "it is called without arguments"),
    ({"optax": optim.SGD(OTHER.parameters(), lr=0.1)}, "such as optax.adamw(1e-3), not SGD"),
    ({"optax": optax.sgd}, "such as optax.adamw(1e-3), not sgd"),
    ({"optax": optax.MultiSteps(optax.sgd(0.1), 2)}, "not MultiSteps: write .gradient_transformation() behind it"),
    ({"optax": optax.masked(optax.sgd(0.1), {"a": True})}, "optax's init failed: ValueError"),
]


@pytest.mark.parametrize(("options", "line"), WRONG)
def test_a_wrong_argument_ends_in_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=re.escape(line)) as raised:
        train(**options)
    assert "\n" not in str(raised.value)


def averaging(first: int = 0) -> Any:
    """Returns what makes torch's optimizer; its step returns an average from the step `first` on."""

    def make(model: nn.Module) -> Any:
        optimizer, average = optim.SGD(model.parameters(), lr=0.1), AveragedModel(model)
        steps = itertools.count()

        def step() -> nn.Module | None:
            optimizer.step()
            if next(steps) < first:
                return None
            average.update_parameters(model)
            return average

        return step

    return make


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"torch_optimizer": averaging()}, "give jax_average=lambda average, parameters: ..., or return nothing"),
        ({"torch_optimizer": averaging(1)}, "give jax_average=lambda average, parameters: ..., or return nothing"),
        ({"jax_average": lambda average, new: new}, "torch_optimizer's function must return it"),
        (
            {"torch_optimizer": averaging(5), "jax_average": lambda average, new: new},
            "torch_optimizer's function must return it",
        ),
        (
            {"torch_optimizer": lambda model: lambda: nn.Linear(2, 2), "jax_average": lambda average, new: new},
            "must have the model's parameters",
        ),
        (
            {"torch_optimizer": averaging(), "jax_average": lambda average, new: None},
            "jax_average must return the new average of all parameters",
        ),
    ],
)
def test_an_average_of_one_side_alone_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=re.escape(line)):
        train(**options)


def test_an_average_may_start_later() -> None:
    result = train(torch_optimizer=averaging(1), jax_average=lambda average, new: new)
    assert result.same, str(result)
    assert result.largest["average"].step == 1


@pytest.mark.parametrize(
    "options",
    [
        {"batches": [(torch.tensor(X), torch.tensor(Y))]},
        {"batches": [(jnp.asarray(X), jnp.asarray(Y))]},
        {"steps": np.int64(2)},
        {"optax": optax.MultiSteps(optax.sgd(0.1), 1).gradient_transformation()},
    ],
)
def test_other_kinds_of_a_right_argument(options: dict[str, Any]) -> None:
    result = train(**options)
    assert result.same, str(result)
