"""Models whose tensors are changed in place, and square weights that fit either way."""

from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

import twincheck as tc

X = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)


class InPlace(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 6), torch.nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        y = self.first(x)
        y += x
        return self.second(torch.nn.functional.relu_(y))


class Kept(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.second = nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.second(nnx.relu(self.first(x) + x))


def test_a_model_that_changes_tensors_in_place() -> None:
    torch.manual_seed(0)
    report = tc.pair(tc.torch(InPlace(), X), tc.nnx(Kept(), X)).check()
    assert report.same, str(report)


class OutIn(nnx.Module):
    """A linear layer that stores its kernel (out, in), as torch does."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (outputs, inputs)))
        self.bias = nnx.Param(jax.numpy.zeros(outputs))

    def __call__(self, x: Any) -> Any:
        return x @ self.kernel[...].T + self.bias[...][None]


class Square(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.second = OutIn(6, 6, rngs), OutIn(6, 4, rngs)

    def __call__(self, x: Any) -> Any:
        return self.second(nnx.relu(self.first(x) + x))


def test_a_square_weight_lies_as_others_of_its_class() -> None:
    torch.manual_seed(0)
    pair = tc.pair(tc.torch(InPlace(), X), tc.nnx(Square(), X))
    assert pair.check().same
    np.testing.assert_array_equal(pair.jax.parameters["first.kernel"], pair.torch.parameters["first.weight"])
