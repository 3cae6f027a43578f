"""An attention with positions in two ways that agree."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import twincheck

IDS = np.random.default_rng(0).integers(0, 11, (2, 5))
HEADS, WIDTH = 2, 8


class Original(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = torch.nn.Embedding(11, WIDTH), torch.nn.Embedding(6, WIDTH)
        self.query, self.value = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.key = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.out = torch.nn.Linear(WIDTH, 3)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]).expand(ids.shape))
        heads = [part(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        return self.out(torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class Port(nnx.Module):
    """Looks up positions once for the whole batch, and has a bias at the key, which changes nothing."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.tokens, self.positions = nnx.Embed(11, WIDTH, rngs=rngs), nnx.Embed(6, WIDTH, rngs=rngs)
        self.query = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.key = nnx.Linear(WIDTH, WIDTH, bias_init=nnx.initializers.normal(1.0), rngs=rngs)
        self.value = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, ids):
        x = self.tokens(ids) + self.positions(jnp.arange(ids.shape[1]))[None]
        query, key, value = (
            part(x).reshape(*ids.shape, HEADS, -1).swapaxes(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) / jnp.sqrt(WIDTH // HEADS)
        return self.out((jax.nn.softmax(scores) @ value).swapaxes(1, 2).reshape(*ids.shape, -1))


def check(port):
    torch.manual_seed(0)
    return twincheck.pair(twincheck.torch(Original(), IDS), twincheck.nnx(port, IDS)).check()


def test_positions_without_a_batch_and_a_bias_without_effect_are_no_alarm():
    report = check(Port())
    assert report.same, str(report)
    assert [parameter.name for parameter in report.unpaired] == ["key.bias"]
    assert not report.unpaired[0].matters


def test_positions_that_differ_are_out():
    class Wrong(Port):
        def __call__(self, ids):
            x = self.tokens(ids) + self.positions(jnp.arange(ids.shape[1]) + 1)[None]
            return self.out(x + self.query(x) + self.key(x) + self.value(x))

    assert "positions" in {str(place) for place in check(Wrong()).places if place.out}


def test_a_bias_that_torch_lacks_is_zero_and_named_if_it_has_an_effect():
    class WithoutBias(Original):
        def __init__(self):
            super().__init__()
            self.value = torch.nn.Linear(WIDTH, WIDTH, bias=False)

    torch.manual_seed(0)
    report = twincheck.pair(twincheck.torch(WithoutBias(), IDS), twincheck.nnx(Port(), IDS)).check()
    assert not [place for place in report.places if place.out], str(report)
    assert {parameter.name: parameter.matters for parameter in report.unpaired} == {
        "key.bias": False,
        "value.bias": True,
    }
    assert not report.same
