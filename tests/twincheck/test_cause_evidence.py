"""Causes are recognised from values, and nothing is recognised where there is nothing to recognise."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from planted_nets import Pair, channels_last, dense, flax_layers, image, layer, layers, load, to_jax, words
from planted_places import KEPT, torch_attention, written_attention
from torch import nn

from twincheck.causes.evidence import CAUSES, recognise
from twincheck.causes.table import BY_NAME
from twincheck.causes.terms import FUNCTIONS, activation_cause

RESIDUAL = layers(nn.Linear, 8, 8)
FLAX_RESIDUAL = flax_layers(nnx.Linear, 8, 8)


def plain(cause: str, torch_function: Callable, right: Callable, wrong: Callable, **kwargs: object) -> Pair:
    return dense(cause, lambda net, x: torch_function(x), lambda net, x: right(x), lambda net, x: wrong(x), **kwargs)


def same(x: object) -> object:
    return x


def residual(cause: str, place: Callable, wrong: Callable) -> Pair:
    return words(cause, place, place, wrong, layers=RESIDUAL, right_layers=FLAX_RESIDUAL)


PAIRS = (
    plain("sign", lambda x: -x, lambda x: -x, same),
    plain("std-ddof", lambda x: x / x.std(), lambda x: x / x.std(ddof=1), lambda x: x / x.std()),
    plain("constant-factor", lambda x: x * 0.3, lambda x: x * 0.3, same),
    plain("activation-left-out", F.gelu, lambda x: nnx.gelu(x, approximate=False), same),
    plain("activation-left-out", F.relu, nnx.relu, same),
    plain("activation-doubled", torch.sigmoid, nnx.sigmoid, lambda x: nnx.sigmoid(nnx.sigmoid(x))),
    plain("leaky-slope", lambda x: F.leaky_relu(x, 0.2), lambda x: nnx.leaky_relu(x, 0.2), nnx.leaky_relu),
    plain(
        "forget-gate-bias-left-out",
        lambda x: x + torch.eye(4)[2].repeat_interleave(2),
        lambda x: x + jnp.asarray([[0, 0, 0, 0, 1, 1, 0, 0]], x.dtype),
        same,
    ),
    plain("forget-gate-bias", same, same, lambda x: x + jnp.asarray([[0, 0, 1, 1, 0, 0, 0, 0]], x.dtype)),
    plain("channels-permuted", same, same, lambda x: x[:, [0, 1, 4, 5, 2, 3, 6, 7]], shape=(2, 8)),
    plain("channels-permuted", same, same, lambda x: x[:, [4, 5, 6, 7, 0, 1, 2, 3]], shape=(2, 8)),
    plain(
        "channels-permuted",
        lambda x: x[:, :6],
        lambda x: x[:, :6],
        lambda x: x[:, [2, 3, 0, 1, 4, 5]],
        width=6,
        shape=(2, 8),
    ),
    plain("transposed", lambda x: x, same, lambda x: x.T, shape=(8, 8)),
    plain("channels-reversed", same, same, lambda x: x[:, ::-1]),
    plain("axis-reversed", same, same, lambda x: x[::-1]),
    image("axis-reversed", lambda net, x: x, lambda net, x: x, lambda net, x: x[:, ::-1]),
    plain("channels-permuted", same, same, lambda x: x[:, [3, 0, 1, 2, 4, 7, 5, 6]]),
    plain("shifted", same, same, lambda x: jnp.roll(x, 1, 0)),
    image("shifted", lambda net, x: x, lambda net, x: x, lambda net, x: jnp.roll(x, 1, 1)),
    image(
        "padding-border",
        lambda net, x: net.layer(F.pad(x, (1,) * 4, mode="reflect")),
        layer,
        layer,
        layers=layers(nn.Conv2d, 4, 4, 3),
        right_layers=flax_layers(nnx.Conv, 4, 4, (3, 3), padding="REFLECT"),
        wrong_layers=flax_layers(nnx.Conv, 4, 4, (3, 3)),
    ),
    plain("constant-offset", same, same, lambda x: x + 1),
    plain("bias-left-out", same, same, lambda x: x - jnp.arange(8.0, dtype=x.dtype)[None]),
    plain(
        "norm-epsilon-place",
        lambda x: x / (x.std(-1, keepdim=True, unbiased=False) + 0.1),
        lambda x: x / (x.std(-1, keepdims=True) + 0.1),
        lambda x: x / jnp.sqrt(x.var(-1, keepdims=True) + 0.1),
    ),
    plain("low-precision", same, same, lambda x: x.astype(jnp.bfloat16).astype(x.dtype)),
    residual("residual-left-out", lambda net, x: x + net.layer(x), lambda net, x: net.layer(x)),
    residual("residual-doubled", lambda net, x: net.layer(x), lambda net, x: x + net.layer(x)),
    words("pooling", lambda net, x: x[:, 0], lambda net, x: x[:, 0], lambda net, x: x[:, -1]),
    words("pooling", lambda net, x: x.mean(1), lambda net, x: x.mean(1), lambda net, x: x[:, 0]),
    words(
        "masked-rows",
        lambda net, x: torch_attention(x, attn_mask=torch.tensor(KEPT)),
        lambda net, x: written_attention(x, 0.5, jnp.asarray(KEPT), -1e9),
        lambda net, x: written_attention(
            x, 0.5, jnp.asarray(KEPT & np.array([1, 1, 0], bool)[:, None, None, None]), -jnp.inf
        ),
    ),
)


def values(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray, Sequence[np.ndarray]]:
    """Returns what torch, right and wrong give to the last layer, and torch's values before."""
    torch.manual_seed(0)
    model, inputs = pair.torch()
    right, wrong = pair.right(), pair.wrong()
    load(model, right)
    load(model, wrong)
    with torch.no_grad():
        theirs, before = model.between(*inputs), model.before(*inputs)  # type: ignore[operator]
    xs = to_jax(inputs)
    sides = (np.asarray(net.between(*xs)) for net in (right, wrong))  # type: ignore[attr-defined]
    return channels_last(theirs), *sides, [channels_last(before)]  # type: ignore[return-value]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.cause)
def test_a_planted_difference_is_recognised(pair: Pair) -> None:
    theirs, right, wrong, before = values(pair)
    assert recognise(wrong, theirs, before) == pair.cause
    assert recognise(theirs, theirs, before) is None
    if pair.cause != "norm-epsilon-place":
        assert recognise(right, theirs, before) is None


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_flattening() -> None:
    images = normal(3, 4, 5, 2)
    ours, theirs = images.reshape(3, -1), np.moveaxis(images, -1, 1).reshape(3, -1)
    assert recognise(ours, theirs) == "nhwc-flatten"


def test_padding_index() -> None:
    theirs = normal(5, 4)
    ours = theirs.copy()
    theirs[2] = 0
    assert recognise(ours, theirs) == "padding-index"


def test_token_types() -> None:
    words, row = normal(2, 5, 8), np.broadcast_to(normal(8, seed=1), (2, 5, 8))
    assert recognise(words, words + row, [words, row]) == "token-types"
    assert recognise(words, words + row) == "bias-left-out"


def test_a_residual_from_another_place() -> None:
    x, normed, out = normal(2, 5, 8), normal(2, 5, 8, seed=1), normal(2, 5, 8, seed=2)
    assert recognise(normed + out, x + out, [x, normed]) == "residual-norm"


def test_a_factor_near_one() -> None:
    assert recognise(normal(5, 4), normal(5, 4) * 1.0005) == "constant-factor"


EITHER_WAY = ("masked-rows", "sign", "std-ddof", "constant-factor", "leaky-slope", "transposed", "channels-reversed",
              "axis-reversed", "channels-permuted", "shifted", "padding-border", "constant-offset", "bias-left-out",
              "pooling", "norm-epsilon-place")  # fmt: skip
"""Causes with one name for both directions: their sentences name neither side as the right one."""


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.cause)
def test_a_cause_of_one_direction_is_not_recognised_in_the_other(pair: Pair) -> None:
    theirs, _, wrong, before = values(pair)
    named = recognise(theirs, wrong, before)
    assert named == pair.cause if pair.cause in EITHER_WAY else named != pair.cause


def test_infinities_and_large_values_cause_no_warning() -> None:
    theirs = normal(5, 4) * 1e4
    ours = -theirs
    assert recognise(ours, theirs) == "sign"
    theirs[0, 0] = ours[0, 0] = np.inf
    assert recognise(ours, theirs, [theirs]) is None


@pytest.mark.parametrize("shape", [(8,), (6, 8), (8, 8), (3, 5, 8), (2, 6, 6, 4), (2, 1, 8), (4, 12)])
@pytest.mark.parametrize("seed", range(5))
def test_unrelated_values_are_not_recognised(shape: tuple[int, ...], seed: int) -> None:
    ours, theirs = normal(*shape, seed=seed), normal(*shape, seed=seed + 100)
    earlier = [normal(*shape, seed=seed + 200), normal(shape[0], 5, *shape[1:], seed=seed + 300)]
    assert recognise(ours, theirs, earlier) is None
    assert recognise(theirs + 1e-3 * ours, theirs, earlier) is None
    assert recognise(theirs * (1 + 1e-7 * ours), theirs, earlier) is None  # rounding


def test_few_or_constant_values_are_not_recognised() -> None:
    assert recognise(np.ones(4), np.full(4, 2.0)) is None
    assert recognise(np.ones((4, 4)), np.zeros((4, 4))) is None
    assert recognise(np.ones((4, 4)), np.ones((4, 2))) is None


ACTIVATION_PAIRS = [(theirs, ours) for theirs in FUNCTIONS for ours in ("tanh", "relu", "gelu") if ours != theirs]
ACTIVATION_PAIRS.append(("gelu", "gelu-tanh"))


@pytest.mark.parametrize(("theirs", "ours"), ACTIVATION_PAIRS)
@pytest.mark.parametrize("gated", [False, True])
def test_another_activation_is_recognised(theirs: str, ours: str, gated: bool) -> None:
    before, gate = normal(20, 30) * 4, normal(20, 30, seed=1) if gated else np.ones((20, 30))
    wrong, right = FUNCTIONS[ours](before) * gate, FUNCTIONS[theirs](before) * gate
    cause = activation_cause(theirs, ours)
    assert recognise(wrong, right, [gate, before]) == cause
    assert recognise(right, right, [gate, before]) is None
    assert recognise(wrong, right, [gate, before[::-1]]) != cause


def test_the_nearest_activation_is_named() -> None:
    assert activation_cause("gelu", "gelu-tanh") == "gelu-tanh"
    assert activation_cause("gelu-tanh", "gelu") == "gelu-erf"
    assert activation_cause("gelu", "gelu-quick") == "activation-gelu"


TERMS = {
    "activation-left-out": (lambda a, b: F.silu(a) * b, lambda a, b: a * b),
    "activation-doubled": (lambda a, b: F.relu(a + b), lambda a, b: F.relu(F.relu(a) + b)),
    "gate-swapped": (lambda a, b: F.silu(a) * b, lambda a, b: a * F.silu(b)),
    "residual-left-out": (lambda a, b: F.relu(a + b), lambda a, b: F.relu(a)),
    "residual-order": (lambda a, b: F.relu(a + b), lambda a, b: F.relu(a) + b),
}


@pytest.mark.parametrize("cause", TERMS)
def test_another_term_is_recognised(cause: str) -> None:
    right, wrong = TERMS[cause]
    a, b, c = (torch.tensor(normal(2, 5, 8, seed=seed)) for seed in range(3))
    theirs, ours, earlier = right(a, b).numpy(), wrong(a, b).numpy(), [b.numpy(), c.numpy(), a.numpy()]
    assert recognise(ours, theirs, earlier) == cause
    assert recognise(theirs, theirs, earlier) is None
    assert recognise(wrong(c, c).numpy(), theirs, [b.numpy(), a.numpy()]) != cause


def test_an_embedding_is_scaled_only_where_there_is_one() -> None:
    embedded, positions = normal(2, 5, 16), normal(1, 5, 16, seed=1)
    theirs = embedded + positions
    assert recognise(4 * embedded + positions, theirs, [], [embedded]) == "embedding-unscaled"
    assert recognise(embedded / 4 + positions, theirs, [], [embedded]) == "embedding-scale"  # torch scales it inside
    assert recognise(embedded + positions, 4 * embedded + positions, [], [embedded]) == "embedding-scale"
    assert recognise(4 * theirs, theirs, [theirs]) == "constant-factor"
    assert recognise(theirs, theirs, [], [embedded]) is None


def test_a_sum_for_a_mean_is_only_of_losses() -> None:
    logits = normal(6, 8)
    losses = (logits**2).sum(-1)
    assert recognise(losses.sum(), losses.mean(), [logits]) == "loss-reduction"
    assert recognise(losses.mean(), losses.sum(), [logits]) == "loss-reduction-sum"
    assert recognise(losses.sum(), losses.sum() * 0.7, [logits]) is None
    assert recognise(losses.sum(), losses.sum(), [logits]) is None
    assert recognise(6 * losses.repeat(2), losses.repeat(2), [logits]) == "constant-factor"


@pytest.mark.parametrize("shape", [(2, 6, 8), (2, 8, 3, 2), (2, 3, 2, 8)])
def test_pooling_of_sequences_and_images(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    rows = x.reshape(2, 8, 6).swapaxes(1, 2) if shape == (2, 8, 3, 2) else x.reshape(2, 6, 8)
    assert recognise(rows.max(1), rows.mean(1), [x]) == "pooling"
    assert recognise(rows.sum(1), rows.mean(1), [x]) == "pooling"
    assert recognise(rows[:, 0], rows.mean(1), [x]) == "pooling"
    assert recognise(rows.mean(1), rows.mean(1), [x]) is None
    assert recognise(normal(2, 8, seed=1), rows.mean(1), [x]) is None


def test_what_is_the_same_for_all_examples() -> None:
    x, positions = normal(3, 5, 8), normal(1, 5, 8, seed=1)
    assert recognise(x, x + positions, [x]) == "positions-left-out"
    assert recognise(x[:1].repeat(3, 0), (x[:1] + positions).repeat(3, 0), []) is None
    assert recognise(x, x + positions[:, :1]) == "bias-left-out"
    heads = normal(3, 5, 2, 4)
    assert recognise(heads, heads + normal(2, 4, seed=1)) == "bias-left-out"
    assert recognise(heads, heads + normal(5, 2, 4, seed=1)) == "positions-left-out"


def test_every_evidence_has_a_cause_and_a_test() -> None:
    tested = (
        {pair.cause for pair in PAIRS}
        | {activation_cause(*pair) for pair in ACTIVATION_PAIRS}
        | set(TERMS)
        | {"nhwc-flatten", "padding-index", "token-types", "residual-norm", "embedding-scale", "loss-reduction"}
        | {"positions-left-out", "embedding-unscaled", "loss-reduction-sum"}
    )
    assert tested == CAUSES
    assert set(BY_NAME) >= CAUSES
