"""The line of code with the first wrong operation of the JAX model."""

import linecache
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import twincheck as tc
from twincheck import jax_operations, torch_operations
from twincheck.check import Forcing
from twincheck.first_wrong_operation import Line, agree, first_wrong_operation, sums, users_line
from twincheck.recording import invoke


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        return self.out(nn.functional.gelu(weights @ v))


class JaxAttention(nnx.Module):
    def __init__(self, *, scale=None, allowed=jnp.tril, axis=-1, approximate=False):
        self.qkv, self.out = nnx.Linear(12, 36, rngs=nnx.Rngs(0)), nnx.Linear(12, 12, rngs=nnx.Rngs(0))
        self.scale, self.allowed, self.axis, self.approximate = scale, nnx.static(allowed), axis, approximate

    def __call__(self, x):
        q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
        scores = jnp.einsum("bqd,bkd->bqk", q, k)
        scores = scores * (self.scale or 1 / math.sqrt(q.shape[-1]))  # scaled
        allowed = self.allowed(jnp.ones((x.shape[1], x.shape[1]), bool))
        scores = jnp.where(allowed, scores, -jnp.inf)  # masked
        weights = jax.nn.softmax(scores, axis=self.axis)  # normalised
        return self.out(jax.nn.gelu(weights @ v, self.approximate))  # activated


X = np.random.default_rng(0).normal(size=(2, 5, 12)).astype(np.float32)


def pair_with(**changed):
    torch.manual_seed(0)
    return tc.pair(tc.torch(TorchAttention(), X), tc.nnx(JaxAttention(**changed), X))


@pytest.mark.parametrize(
    ("changed", "mark", "of_torch"),
    [
        ({"scale": 0.5}, "# scaled", "div"),
        ({"scale": 1.0}, "# masked", "div"),
        ({"allowed": lambda mask: jnp.tril(mask, 1)}, "# masked", "masked_fill"),
        ({"axis": -2}, "# normalised", "_softmax"),
        ({"approximate": True}, "# activated", "gelu"),
    ],
)
def test_the_line_is_named_with_what_torch_does_there(changed, mark, of_torch):
    report = pair_with(**changed).check()
    (place,) = [place for place in report.out if place.kind == "code"]
    line = place.wrong_operation.line
    assert mark in linecache.getline(line.file, line.number), place.wrong_operation
    assert place.wrong_operation.torch == of_torch
    torch_line = place.wrong_operation.torch_line
    assert "def forward" not in linecache.getline(torch_line.file, torch_line.number)
    assert mark in str(report)


def test_a_right_model_has_no_wrong_operation():
    pair = pair_with()
    theirs = torch_operations.operations(pair.torch)
    ends, outputs = jax_operations.operations(pair.jax, Forcing(pair.pairing, pair.truth, {}))
    assert len(ends) == 6  # in and out of the model and its two layers
    assert [first_wrong_operation(end, theirs) for end in (*ends.values(), *outputs)] == [None] * 7


def test_tensors_of_one_size_are_told_apart():
    x = np.random.default_rng(0).normal(size=100)
    assert agree(sums(x), sums(x.reshape(10, 10).T))
    for other in (-x, x + 1e-6, x * (1 + 1e-6), np.where(np.arange(100) == 7, 0, x)):
        assert not agree(sums(x), sums(other))
    assert agree(sums(np.full(3, -np.inf)), sums(np.full(3, -np.inf)))


def test_lines_are_of_the_users_own_code():
    library = ("/lib/site-packages/flax/nnx/nn/linear.py", "__call__", 3)
    asked = (invoke.__code__.co_filename, "invoke", 5), ("train.py", "<module>", 7)
    assert users_line([library, ("/home/ada/port.py", "__call__", 12), *asked]) == Line("/home/ada/port.py", 12)
    assert users_line([("/lib/site-packages/timm/models/vit.py", "forward", 4)]).number == 4
    assert users_line([library, ("<string>", "__call__", 2)]) == Line("<string>", 2)
    assert users_line([library, *asked]) is None  # not the line that asks for the check
