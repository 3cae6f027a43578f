"""Entropy in NumPy, JAX and torch: the tutorial's figures, and all three agree on any distributions."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tolerances import ENTROPY

import jax_mlp.entropy
import mlp_workload.entropy
import reference_torch.entropy

SIDES = {
    "numpy": (mlp_workload.entropy, np.asarray),
    "jax": (jax_mlp.entropy, jnp.asarray),
    "torch": (reference_torch.entropy, torch.tensor),
}
side = pytest.mark.parametrize("side", SIDES)


@st.composite
def pairs(draw):
    """Two distributions of one shape (..., classes), zeros among them; q is nowhere 0 where p is not."""
    shape = draw(st.sampled_from([(1,), (10,), (2, 3, 20)]))  # few: JAX compiles for each
    p, q = (draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 1e-6, 0.1, 0.5, 1.0, 7.0]))) for _ in "pq")
    p[..., 0] += 1e-3
    q += np.where(p > 0, 1e-3, 0)
    return p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)


@side
@pytest.mark.parametrize(
    ("p", "bits"), [([0.25] * 4, 2.0), ([0.1, 0.1, 0.1, 0.7], 1.3568), ([0.001, 0.001, 0.001, 0.999], 0.0313)]
)
def test_the_articles_figures(side, p, bits):
    module, array = SIDES[side]
    value = module.entropy(array(np.array(p)), check=False)
    assert round(float(value), 4) == bits


@side
def test_the_articles_third_distribution_does_not_sum_to_one(side):
    module, array = SIDES[side]
    with pytest.raises(ValueError, match=r"p sums to 1\.002, expected 1"):
        module.entropy(array(np.array([0.001, 0.001, 0.001, 0.999])))


@side
@pytest.mark.parametrize("function", ["cross_entropy", "kl_divergence"])
@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([0.5, 0.5], [0.5, 0.6], "q sums to 1.1"),
        ([-0.5, 1.5], [0.5, 0.5], "p holds -0.5"),
        ([0.5, 0.5], [np.nan, 1.0], "q holds nan"),
        ([[0.5, 0.5], [0.5, 0.4]], [[0.5, 0.5], [0.5, 0.5]], "p sums to 0.9"),
        ([[1.0], [1.0]], [[0.5, 0.5], [0.5, 0.5]], "expected the same number of classes, got {'p': 1, 'q': 2}"),
    ],
)
def test_what_is_no_distribution_is_refused(side, function, p, q, message):
    module, array = SIDES[side]
    with pytest.raises(ValueError, match=message):
        getattr(module, function)(array(np.array(p)), array(np.array(q)))


@side
def test_float32_distributions_of_many_classes_pass_the_check(side):
    module, array = SIDES[side]
    p = np.full(3000, 1 / 3000, np.float32)
    ENTROPY["float32"].assert_close(module.entropy(array(p), "nats"), np.log(3000))


@pytest.mark.parametrize("side", ["jax", "torch"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("base", ["bits", "nats"])
@settings(max_examples=40)
@given(pair=pairs())
def test_frameworks_agree_with_numpy(side, dtype, base, pair):
    module, array = SIDES[side]
    oracle = mlp_workload.entropy
    p, q = (part.astype(dtype) for part in pair)
    for name, arguments in (("entropy", (p,)), ("cross_entropy", (p, q)), ("kl_divergence", (p, q))):
        value = getattr(module, name)(*map(array, arguments), base)
        assert str(value.dtype).removeprefix("torch.") == dtype
        ENTROPY[dtype].assert_close(value, getattr(oracle, name)(*arguments, base))


@side
def test_cross_entropy_is_entropy_plus_divergence_and_never_less(side):
    module, array = SIDES[side]
    rng = np.random.default_rng(0)
    p, q = map(array, rng.dirichlet(np.ones(10), size=(2, 50)))
    divergence = module.kl_divergence(p, q)
    assert (np.asarray(divergence) > 0).all()
    ENTROPY["float64"].assert_close(module.cross_entropy(p, q), module.entropy(p) + divergence)


@side
def test_zeros(side):
    module, array = SIDES[side]
    certain, even = array(np.array([1.0, 0.0])), array(np.array([0.5, 0.5]))
    assert float(module.entropy(certain)) == 0
    assert float(module.cross_entropy(certain, even)) == 1
    assert float(module.cross_entropy(even, certain)) == np.inf
    assert float(module.kl_divergence(even, certain)) == np.inf
    assert float(module.kl_divergence(certain, certain)) == 0


@pytest.mark.parametrize("function", ["entropy", "cross_entropy", "kl_divergence"])
@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([np.nan, 1.0], [0.5, 0.5]),
        ([0.0, 1.0], [np.nan, 1.0]),
        ([-0.1, 1.1], [0.5, 0.5]),
        ([0.5, 0.5], [-0.5, 1.5]),
        ([0.0, 1.0], [-0.5, 1.5]),
        ([np.inf, 0.0], [0.5, 0.5]),
        ([0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_unchecked_all_three_say_the_same_of_what_is_no_distribution(function, p, q):
    values = []
    for module, array in SIDES.values():
        arguments = [array(np.array(part)) for part in ((p,) if function == "entropy" else (p, q))]
        values.append(float(getattr(module, function)(*arguments, check=False)))
    assert np.isnan(values).all() or len(set(values)) == 1, values


@side
def test_a_certain_outcome_has_no_negative_zero(side):
    module, array = SIDES[side]
    assert not np.signbit(float(module.entropy(array(np.array([1.0, 0.0])))))


@side
def test_a_bit_is_ln_2_nats(side):
    module, array = SIDES[side]
    even = array(np.array([0.5, 0.5]))
    assert float(module.entropy(even, "bits")) == 1
    ENTROPY["float64"].assert_close(module.entropy(even, "nats"), np.log(2))
