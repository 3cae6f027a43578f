"""Tables of tokens and positions: where torch keeps them, what it hands them, and which rows it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import twincheck as tc

TOKENS, WIDTH, LENGTH = 11, 6, 5
IDS = np.array([[4, 7, 1, 9, 1], [2, 2, 10, 3, 1]])


class Positions(nn.Embedding):
    """A table whose values are looked up by place; what it is given has the shape alone."""

    def forward(self, ids):
        return super().forward(torch.arange(ids.shape[1]).expand(ids.shape))


class Scaled(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 4.0


class Model(nn.Module):
    def __init__(self, tokens, positions=None):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.positions = tokens, positions or Positions(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, ids):
        return self.head(torch.tanh(self.tokens(ids) + self.positions(ids)))


class Port(nnx.Module):
    def __init__(self, scale=1.0, first=0, frozen=False):
        rngs = nnx.Rngs(0)
        self.tokens, self.positions = nnx.Embed(TOKENS, WIDTH, rngs=rngs), nnx.Embed(WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)
        self.scale, self.first, self.frozen = scale, first, frozen

    def __call__(self, ids):
        tokens = self.tokens(ids) * self.scale
        positions = self.positions(jnp.broadcast_to(jnp.arange(ids.shape[1]) + self.first, ids.shape))
        positions = jax.lax.stop_gradient(positions) if self.frozen else positions
        return self.head(jnp.tanh(tokens + positions))


def check(model, port):
    return tc.pair(tc.torch(model, torch.tensor(IDS)), tc.nnx(port, jnp.asarray(IDS))).check()


def test_a_square_table_of_a_class_of_its_own_is_loaded_as_it_is_and_gets_jax_own_positions():
    assert check(Model(nn.Embedding(TOKENS, WIDTH)), Port()).same


def test_positions_that_start_elsewhere_are_found_in_the_table():
    report = check(Model(nn.Embedding(TOKENS, WIDTH)), Port(first=1))
    assert not report.same
    assert str(report.findings[0].places[0]) == "positions"


@pytest.mark.parametrize("kind", [nn.Embedding, Scaled], ids=["plain", "scaled inside the module"])
def test_the_row_of_padding_is_named_also_where_the_scale_is_drawn_elsewhere(kind):
    report = check(Model(kind(TOKENS, WIDTH, padding_idx=1)), Port(4.0 if kind is Scaled else 1.0))
    assert [(finding.name, len(finding.places)) for finding in report.findings] == [("padding-index", 1)]


def test_the_row_of_padding_is_named_in_a_table_that_two_modules_share():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.shared = nn.Embedding(TOKENS, WIDTH, padding_idx=1)
            self.a, self.b = Scaled(TOKENS, WIDTH, padding_idx=1), Scaled(TOKENS, WIDTH, padding_idx=1)
            self.a.weight = self.b.weight = self.shared.weight
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, ids):
            return self.head(torch.tanh(self.a(ids)) * self.b(ids.flip(1)))

    class TwoPort(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.shared, self.head = nnx.Embed(TOKENS, WIDTH, rngs=rngs), nnx.Linear(WIDTH, 3, rngs=rngs)

        def __call__(self, ids):
            return self.head(jnp.tanh(self.shared(ids) * 4) * (self.shared(ids[:, ::-1]) * 4))

    report = check(Two(), TwoPort())
    assert [(finding.name, len(finding.places)) for finding in report.findings] == [("padding-index", 1)]


@pytest.mark.parametrize(("frozen", "stopped", "same"), [(True, True, True), (False, True, False)])
def test_a_table_that_neither_trains_has_no_gradient_to_compare(frozen, stopped, same):
    positions = Positions(WIDTH, WIDTH)
    positions.weight.requires_grad_(not frozen)
    assert check(Model(nn.Embedding(TOKENS, WIDTH), positions), Port(frozen=stopped)).same == same
