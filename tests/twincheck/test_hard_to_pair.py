"""Models whose tensors are changed in place, and square weights that fit either way."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import twincheck as tc
from mlp_workload.errors import UserError

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


class Table(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 6)
        self.register_buffer("table", torch.randn(6))

    def forward(self, x: Any) -> Any:
        return self.first(x) * self.table[torch.arange(6)]


class DataTable(nnx.Module):
    """Holds arrays without a variable."""

    def __init__(self) -> None:
        self.first = nnx.Linear(6, 6, rngs=nnx.Rngs(0))
        self.table, self.order = nnx.data(jnp.zeros(6)), nnx.data(jnp.arange(6))

    def __call__(self, x: Any) -> Any:
        return self.first(x) * self.table[self.order][None]


def test_arrays_without_a_variable_are_buffers() -> None:
    torch.manual_seed(0)
    report = tc.pair(tc.torch(Table(), X), tc.nnx(DataTable(), X)).check()
    assert report.same, str(report)
    assert "table" in {weight.jax for weight in report.pair.weights}


class OnlyFloat32(nnx.Module):
    def __init__(self, scale: float) -> None:
        self.first, self.scale = nnx.Linear(6, 6, rngs=nnx.Rngs(0)), scale

    def __call__(self, x: Any) -> Any:
        return jax.lax.dynamic_update_slice(jnp.zeros(x.shape, jnp.float32), self.first(x) * self.scale, (0, 0))


def test_a_model_that_runs_in_float32_alone() -> None:
    doubt = "the flax.nnx model does not run in float64: a place that is out may be rounding"
    for scale, same in ((1.0, True), (1.00001, False)):
        pair = tc.pair(tc.torch(torch.nn.Linear(6, 6), X), tc.nnx(OnlyFloat32(scale), X))
        report = pair.check()
        assert report.same == same, str(report)
        assert (doubt in report.notes) == (not same)
    with pytest.raises(
        UserError, match=r"runs in float32 and failed in float64: TypeError.*take dtypes from the param"
    ):
        pair.check("float64")


class TorchMasked(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 6)

    def forward(self, x: Any) -> Any:
        hidden = self.first(x)
        return torch.softmax(hidden.masked_fill(hidden < 0, torch.finfo(hidden.dtype).min), -1)


class Masked(nnx.Module):
    def __init__(self) -> None:
        self.first = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        hidden = self.first(x)
        return jax.nn.softmax(jnp.where(hidden < 0, np.finfo(np.float64).min, hidden), -1)


def test_a_mask_with_the_smallest_float64_overflows_in_silence() -> None:
    torch.manual_seed(0)
    pair = tc.pair(tc.torch(TorchMasked(), X), tc.nnx(Masked(), X))
    assert pair.check().same


IDS = np.array([[1, 2, 3], [3, 0, 1]])


class Shared(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.out = torch.nn.Embedding(5, 6), torch.nn.Linear(6, 4)

    def forward(self, first: Any, second: Any) -> Any:
        return self.out(self.shared(first) * self.shared(second))


class Apart(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.second = nnx.Embed(5, 6, rngs=rngs), nnx.Embed(5, 6, rngs=rngs)
        self.out = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, first: Any, second: Any) -> Any:
        return self.out(self.first(first) * self.second(second))


def test_an_embedding_that_torch_shares_and_jax_does_not_is_named() -> None:
    torch.manual_seed(0)
    inputs = IDS, IDS[::-1].copy()
    report = tc.pair(tc.torch(Shared(), inputs), tc.nnx(Apart(), inputs)).check()
    assert [finding.name for finding in report.findings] == ["tied-weights"], str(report)
    assert "torch has one shared.weight, JAX has first.embedding and second.embedding" in str(report)
    assert {str(place) for place in report.out} == {"gradient of first.embedding", "gradient of second.embedding"}


class WeightNorm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 5))
        self.second = torch.nn.Linear(5, 4)
        with torch.no_grad():
            self.first.parametrizations.weight.original0 *= 1.5

    def forward(self, x: Any) -> Any:
        return self.second(torch.tanh(self.first(x)))


class Normed(nnx.Module):
    def __init__(self) -> None:
        self.weight_g, self.weight_v = nnx.Param(jnp.ones((5, 1))), nnx.Param(jnp.ones((5, 6)))
        self.bias = nnx.Param(jnp.zeros(5))

    def __call__(self, x: Any) -> Any:
        direction = self.weight_v[...] / jnp.linalg.norm(self.weight_v[...], axis=1, keepdims=True)
        return x @ (self.weight_g[...] * direction).T + self.bias[...][None]


class WeightNormPort(nnx.Module):
    def __init__(self) -> None:
        self.first, self.second = Normed(), nnx.Linear(5, 4, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.second(jnp.tanh(self.first(x)))


def test_weight_norm_belongs_to_the_module_that_it_is_made_of() -> None:
    torch.manual_seed(0)
    report = tc.pair(tc.torch(WeightNorm(), X), tc.nnx(WeightNormPort(), X)).check()
    assert report.same, str(report)
    assert not report.unpaired
    assert "first" in {str(place) for place in report.places}


IMAGES = np.random.default_rng(0).standard_normal((1, 4, 5, 5)).astype(np.float32)


class Enlarging(nnx.Module):
    def __init__(self, channels: int, transpose_kernel: bool) -> None:
        rngs, padding = nnx.Rngs(0), ((2, 2), (2, 2))
        self.enlarge = nnx.ConvTranspose(
            4, channels, (4, 4), strides=2, padding=padding, transpose_kernel=transpose_kernel, rngs=rngs
        )
        self.out = nnx.Conv(channels, 2, (1, 1), rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.out(self.enlarge(x))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_a_transposed_convolution_stores_its_kernel_in_one_of_two_ways(channels: int, transpose_kernel: bool) -> None:
    torch.manual_seed(0)
    original = torch.nn.Sequential(
        torch.nn.ConvTranspose2d(4, channels, 4, stride=2, padding=1), torch.nn.Conv2d(channels, 2, 1)
    )
    port = tc.nnx(Enlarging(channels, transpose_kernel), IMAGES.transpose(0, 2, 3, 1))
    report = tc.pair(tc.torch(original, IMAGES), port).check()
    assert report.same, str(report)
