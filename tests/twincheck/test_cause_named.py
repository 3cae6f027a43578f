"""A check of a small pair names what was planted in it, and nothing where nothing was planted."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen, nnx
from planted_nets import Pair, to_jax
from planted_pairs import HYPOTHESIS_PAIRS
from planted_settings import SETTING_PAIRS

import twincheck
from mlp_workload.errors import UserError
from twincheck.causes.replace import functions
from twincheck.causes.table import BY_NAME
from twincheck.diagnosis import Hypothesis, Probe
from twincheck.report import Report

FEW = ("pool-max", "pool-mean", "attention-scale", "attention-other-scale", "causal-mask", "mask-fill",
       "rotary-base", "rotary-direction", "low-precision", "gelu-tanh")  # fmt: skip
"""Causes that are checked in every run of the tests."""


def both(pair: Pair, wrong: bool) -> Any:
    torch.manual_seed(0)
    model, inputs = pair.torch()
    net = (pair.wrong if wrong else pair.right)()
    arrays = tuple(x.numpy() for x in inputs)
    jax_side = twincheck.nnx(net, tuple(np.asarray(x) for x in to_jax(inputs)))
    return twincheck.pair(twincheck.torch(model, arrays), jax_side)


def named(report: Report) -> set[str]:
    return {finding.name for finding in report.findings}


NOT_NAMED = {
    "attention-float32": "the bounds are those of float32 if a part is computed in float32, and a note says so",
}
"""Causes that a patch undoes and no check of their pair names, each with the reason."""


@pytest.mark.long("checks a pair for each cause")
@pytest.mark.parametrize("pair", HYPOTHESIS_PAIRS, ids=lambda pair: pair.cause)
def test_every_cause_that_a_patch_undoes_is_named(pair: Pair) -> None:
    report = both(pair, wrong=True).check("float64" if pair.float64 else "float32")
    assert named(report) == ({pair.cause} - NOT_NAMED.keys()), str(report)
    assert any("float32" in note for note in report.notes) or pair.cause not in NOT_NAMED


SETTINGS_NOT_NAMED = {
    "batch-norm-momentum": "changes no output, and is a note",
    "dropout-rate": "changes no output, and layers without parameters are not paired",
}
"""Settings whose pairs no check names, each with the reason."""


@pytest.mark.long("checks a pair for each setting")
@pytest.mark.parametrize("pair", SETTING_PAIRS, ids=lambda pair: pair.cause)
def test_every_setting_that_differs_is_named(pair: Pair) -> None:
    assert (pair.cause in named(both(pair, wrong=True).check())) == (pair.cause not in SETTINGS_NOT_NAMED)


@pytest.mark.parametrize("pair", [pair for pair in HYPOTHESIS_PAIRS if pair.cause in FEW], ids=lambda pair: pair.cause)
def test_what_was_planted_is_named(pair: Pair) -> None:
    assert named(both(pair, wrong=True).check()) == {pair.cause}
    assert both(pair, wrong=False).check().same


@pytest.mark.long("makes a pair for each cause")
@pytest.mark.parametrize("pair", HYPOTHESIS_PAIRS, ids=lambda pair: pair.cause)
def test_no_patch_fails_on_its_pair(pair: Pair) -> None:
    try:
        made = both(pair, wrong=True)
    except UserError:  # its output has another shape, so that it can't be paired
        made = both(pair, wrong=False)
    probe, cause = Probe(made, []), BY_NAME[pair.cause]
    list(probe.changes([Hypothesis(cause, "", cause.patch)]))
    assert not probe.failed


def test_a_patch_that_fails_is_passed_over() -> None:
    def fail(_: object) -> object:
        raise ValueError("no such thing")

    probe = Probe(both(HYPOTHESIS_PAIRS[0], wrong=True), [])
    hypothesis = Hypothesis(BY_NAME["gelu-tanh"], "", functions({"jax.nn.gelu": lambda gelu: fail}))
    assert not list(probe.changes([hypothesis]))
    ((cause, error),) = probe.failed
    assert cause is hypothesis.cause
    assert "no such thing" in str(error)


class TorchAttention(torch.nn.Module):
    """Causal self-attention behind an embedding; the output layer shares the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(13, 8)
        self.qkv, self.out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.head = torch.nn.Linear(8, 13, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens) * 8**0.5
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.head(self.norm(x + self.out(y)))


class JaxAttention(nnx.Module):
    """The same, with what can be mistaken as attributes."""

    def __init__(self, *, scale: float = 0.5, offset: int = 0, embed_scale: float = 8**0.5, tied: bool = True) -> None:
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(13, 8, rngs=rngs)
        self.qkv, self.out = nnx.Linear(8, 24, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs)
        self.scale, self.offset, self.embed_scale = scale, offset, embed_scale
        self.head = None if tied else nnx.Linear(8, 13, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens) * self.embed_scale
        q, k, v = (part.reshape(*x.shape[:2], 2, 4).swapaxes(1, 2) for part in jnp.split(self.qkv(x), 3, -1))
        mask = jnp.tril(jnp.ones((x.shape[1],) * 2, bool), self.offset)[None, None]
        weights = jax.nn.softmax(jnp.where(mask, q @ k.swapaxes(-1, -2) * self.scale, -jnp.inf), axis=-1)
        x = self.norm(x + self.out((weights @ v).swapaxes(1, 2).reshape(x.shape)))
        return self.embed.attend(x) if self.head is None else self.head(x)


TOKENS = np.random.default_rng(0).integers(0, 13, (3, 6))


def attention(**mistake: float) -> Report:
    torch.manual_seed(0)
    return twincheck.pair(
        twincheck.torch(TorchAttention(), TOKENS), twincheck.nnx(JaxAttention(**mistake), TOKENS)
    ).check()


MISTAKES = {
    "attention-scale": {"scale": 1.0},
    "causal-mask": {"offset": 1},
    "embedding-scale": {"embed_scale": 1.0},
    "tied-weights": {"tied": False},
}


def test_attention_that_is_right() -> None:
    assert attention().same


@pytest.mark.parametrize("cause", MISTAKES)
def test_a_mistake_in_attention(cause: str) -> None:
    assert named(attention(**MISTAKES[cause])) == {cause}


def test_mistakes_in_attention_together() -> None:
    everything = {name: value for mistake in MISTAKES.values() for name, value in mistake.items()}
    assert named(attention(**everything)) == set(MISTAKES)


class TorchImages(torch.nn.Module):
    """Residual blocks of convolutions, pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = torch.nn.ModuleList([torch.nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(3)])
        self.norm, self.head = torch.nn.BatchNorm2d(4).eval(), torch.nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.convs[0](x)))
        for conv in self.convs[1:]:
            x = F.relu(x + conv(x))
        return self.head(x.mean((2, 3)))


class JaxImages(nnx.Module):
    def __init__(self, *, epsilon: float = 1e-5, maximum: bool = False, activated: bool = True) -> None:
        rngs = nnx.Rngs(0)
        self.convs = nnx.List([nnx.Conv(3 if i == 0 else 4, 4, (3, 3), padding=1, rngs=rngs) for i in range(3)])
        self.norm = nnx.BatchNorm(4, epsilon=epsilon, use_running_average=True, rngs=rngs)
        self.head, self.maximum, self.activated = nnx.Linear(4, 5, rngs=rngs), maximum, activated

    def __call__(self, x):
        x = self.norm(self.convs[0](x))
        x = nnx.relu(x) if self.activated else x
        for conv in self.convs[1:]:
            x = nnx.relu(x + conv(x))
        return self.head(x.max((1, 2)) if self.maximum else x.mean((1, 2)))


IMAGES = np.random.default_rng(0).normal(size=(2, 3, 7, 6)).astype(np.float32)


def images(**mistake: float) -> Report:
    torch.manual_seed(0)
    jax_side = twincheck.nnx(JaxImages(**mistake), IMAGES.transpose(0, 2, 3, 1))
    return twincheck.pair(twincheck.torch(TorchImages(), IMAGES), jax_side).check()


def test_images_that_are_right() -> None:
    assert images().same


def test_the_gradients_behind_a_pooling_are_no_mistakes_of_their_own() -> None:
    report = images(maximum=True)
    assert named(report) == {"pooling"}
    assert {str(place) for place in report.out} == {
        "between convs.2 and head",
        "gradient, from head back to convs.2",
    }
    assert any(place.carried for place in report.places)


def test_what_a_residual_carries_on_is_no_mistake_of_its_own() -> None:
    report = images(activated=False)
    assert named(report) == {"activation-left-out"}
    assert {str(place) for place in report.out if "gradient" not in place.kind} == {"between norm and convs.1"}
    assert [str(place) for place in report.places if place.carried and place.kind == "code"] == [
        "between convs.1 and convs.2",
        "between convs.2 and head",
    ]


def test_the_epsilon_of_a_batch_norm() -> None:
    (finding,) = images(epsilon=1e-3).findings
    assert finding.name == "norm-epsilon"
    assert "LayerNorm" not in finding.says
    assert "torch has eps=1e-05, so JAX needs epsilon=1e-05; it has 0.001" in finding.evidence


class LinenMlp(linen.Module):
    """A module that is given its activation, as a field, which `bind` copies."""

    activation: Any = linen.gelu

    @linen.compact
    def __call__(self, x):
        return linen.Dense(3, name="down")(self.activation(linen.Dense(16, name="up")(x)))


def linen_mlp(activation: Any) -> Report:
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.GELU(), torch.nn.Linear(16, 3))
    module = LinenMlp() if activation is None else LinenMlp(activation)
    variables = module.init(jax.random.key(0), x)
    return twincheck.pair(twincheck.torch(model, x), twincheck.linen(module, variables, x)).check()


@pytest.mark.parametrize("activation", [None, linen.gelu, partial(jax.nn.gelu, approximate=True)])
def test_the_activation_of_a_linen_module_is_reached(activation: Any) -> None:
    (finding,) = linen_mlp(activation).findings
    assert (finding.name, finding.evidence) == ("gelu-tanh", "the mismatch vanishes with it undone")


def test_an_activation_that_no_patch_reaches_is_named_by_its_values() -> None:
    tanh = lambda x: 0.5 * x * (1 + jnp.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))  # noqa: E731
    (finding,) = linen_mlp(tanh).findings
    assert (finding.name, finding.evidence) == ("gelu-tanh", "the values show it")


def test_a_linen_module_that_is_right() -> None:
    assert linen_mlp(partial(jax.nn.gelu, approximate=False)).same
