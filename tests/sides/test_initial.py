"""Initial weights: the schemes' known moments, and each framework's own initialiser against them."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from scipy import stats
from tolerances import FORWARD_BACKWARD, INITIAL_STD, SAME_DISTRIBUTION

import jax_mlp.model
import jax_mlp.weights
import reference_torch.model
import reference_torch.weights
from jax_mlp.epoch import FOR_ONE_CALL
from mlp_workload.config import Config
from mlp_workload.initial import SCHEMES, initial_parameters

WIDTHS = (784, 200, 200, 10)


def numpy_side(initialization, seed):
    return initial_parameters(initialization, WIDTHS, seed)


@functools.cache
def jax_draw(initialization):
    config = Config(initialization=initialization, dtype="float64")
    draw = jax.jit(lambda seed: nnx.state(jax_mlp.model.build_model(config, WIDTHS, seed)))
    return draw.lower(np.uint32(0)).compile(FOR_ONE_CALL)


def jax_side(initialization, seed):
    return jax_mlp.weights.to_canonical(jax_draw(initialization)(np.uint32(seed)))


def torch_side(form):
    def draw(initialization, seed):
        import torch

        torch.manual_seed(seed)
        config = Config(preset=form, initialization=initialization, dtype="float64")
        return reference_torch.weights.to_canonical(reference_torch.model.build_model(config, WIDTHS))

    return draw


SIDES = {
    "numpy": numpy_side,
    "jax": jax_side,
    "torch hand-written": torch_side("relu"),
    "torch module": torch_side("leaky"),
}
side = pytest.mark.parametrize("side", SIDES)


@side
def test_torch_linear(side):
    parameters = SIDES[side]("torch_linear", 0)
    weight, bias = parameters["layers.0.weight"], parameters["layers.0.bias"]
    assert weight.std() == pytest.approx(0.02062, rel=INITIAL_STD)
    assert 0.035 < np.abs(weight).max() <= 784**-0.5
    assert 0.034 < np.abs(bias).max() <= 784**-0.5


@side
def test_kaiming_normal_is_not_truncated(side):
    parameters = SIDES[side]("kaiming_normal", 0)
    weight, bias = parameters["layers.0.weight"], parameters["layers.0.bias"]
    assert weight.std() == pytest.approx(0.05051, rel=INITIAL_STD)
    expected = weight.size * 2 * stats.norm.sf(0.11484 / (2 / 784) ** 0.5)
    assert expected == pytest.approx(3604, abs=1)
    assert (np.abs(weight) > 0.11484).sum() == pytest.approx(expected, abs=180)
    assert (bias == 0).all()


@side
def test_flax_linear_is_truncated(side):
    parameters = SIDES[side]("flax_linear", 0)
    weight, bias = parameters["layers.0.weight"], parameters["layers.0.bias"]
    assert weight.std() == pytest.approx(784**-0.5, rel=INITIAL_STD)
    assert np.abs(weight).max() <= 2 * 784**-0.5 / 0.8796256
    assert (bias == 0).all()


@pytest.mark.parametrize("side", list(SIDES)[1:])
@pytest.mark.parametrize("initialization", SCHEMES)
def test_each_framework_draws_from_the_same_distribution(side, initialization):
    native, ours = SIDES[side](initialization, 1), numpy_side(initialization, 2)
    assert {name: array.shape for name, array in native.items()} == {name: array.shape for name, array in ours.items()}
    for name, array in native.items():
        assert stats.ks_2samp(array.ravel(), ours[name].ravel()).pvalue > SAME_DISTRIBUTION, name


@side
def test_the_seed_decides(side):
    one, again, other = (SIDES[side]("torch_linear", seed) for seed in (5, 5, 6))
    for name, array in one.items():
        assert array.tobytes() == again[name].tobytes()
        assert array.tobytes() != other[name].tobytes()


def test_flax_linear_is_what_flax_does_by_itself():
    default = nnx.Linear(784, 200, rngs=nnx.Rngs(0))
    ours = jax_mlp.model.Linear(Config(initialization="flax_linear"), 784, 200, nnx.Rngs(0))
    assert (ours.weight[...] == default.kernel[...].T).all()


@pytest.mark.parametrize("initialization", SCHEMES)
def test_our_linear_draws_and_computes_what_flaxs_does(initialization):
    flaxs = nnx.Linear(
        30, 20, rngs=nnx.Rngs(3), param_dtype=float, kernel_init=jax_mlp.model.kernel_init(initialization),
        bias_init=jax_mlp.model.bias_init(initialization, 30),
    )  # fmt: skip
    ours = jax_mlp.model.Linear(Config(initialization=initialization, dtype="float64"), 30, 20, nnx.Rngs(3))
    assert (ours.weight[...] == flaxs.kernel[...].T).all()
    assert (flaxs.bias[...] == ours.bias[...]).all()
    x = np.random.default_rng(0).normal(size=(5, 30))
    FORWARD_BACKWARD["float64"].assert_close(ours(x), flaxs(x))


def test_torch_linear_is_what_torch_does_by_itself():
    import torch

    torch.manual_seed(0)
    default = torch.nn.Linear(784, 200).weight.detach().numpy().ravel()
    ours = numpy_side("torch_linear", 0)["layers.0.weight"].ravel()
    assert stats.ks_2samp(default, ours).pvalue > SAME_DISTRIBUTION
