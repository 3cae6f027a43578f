"""Bounds of a check in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import twincheck
from tests.small_port import INPUT, Port, torch_side

NOTE = "the bounds are those of float32: not all that {} computes is known to be in float64"


class Scaled(Port):
    """A port whose last hidden tensor is a little too large."""

    def __call__(self, x):
        hidden = nnx.gelu(self.n(self.a(x)), approximate=False)
        return self.b(hidden * (1 + 1e-12))


class InFloat32(Port):
    def __call__(self, x):
        return self.b(nnx.gelu(self.n(self.a(x)).astype(jnp.float32), approximate=False))


class Untraceable(Port):
    def __call__(self, x):
        return super().__call__(x * float(jnp.ones(())))


def report(port, dtype="float64"):
    return twincheck.pair(torch_side(), twincheck.nnx(port, INPUT)).check(dtype)


def test_a_right_port_is_the_same_in_float64():
    right = report(Port())
    assert right.same, str(right)
    assert max(place.allowed / place.scale for place in right.places) < 1e-12


def test_a_difference_that_float32_hides_is_out_in_float64():
    assert report(Scaled(), "float32").same
    out = [place for place in report(Scaled()).places if place.out]
    assert {str(place) for place in out} == {"between n and b", "gradient, from b back to n"}


def test_a_cause_that_float32_hides_is_named_in_float64():
    assert report(Port(epsilon=1.001e-5), "float32").same
    assert [finding.name for finding in report(Port(epsilon=1.001e-5)).findings] == ["norm-epsilon"]


@pytest.mark.parametrize("port", [InFloat32, Untraceable])
def test_a_part_in_float32_keeps_the_bounds_of_float32(port):
    found = report(port())
    assert found.same, str(found)
    assert NOTE.format("flax.nnx") in found.notes


def test_a_part_of_torch_in_float32_keeps_the_bounds_of_float32():
    class Original(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(4, 3)

        def forward(self, x):
            return self.a(x.float().to(x.dtype))

    port = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    found = twincheck.pair(twincheck.torch(Original(), INPUT), twincheck.nnx(port, INPUT)).check("float64")
    assert found.same, str(found)
    assert NOTE.format("torch") in found.notes
    assert max(place.allowed / place.scale for place in found.places) > 15 * np.finfo(np.float32).eps


class Sines(Port):
    def __call__(self, x):
        return super().__call__(x) * jnp.sin(jnp.arange(3.0, dtype=x.dtype))[None]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_table_of_torch_in_float32_that_jax_computes_keeps_the_bounds_of_float32(dtype):
    class Table(type(torch_side().original)):
        def __init__(self):
            super().__init__()
            table = torch.sin(torch.arange(3.0, dtype=torch.float64))
            self.register_buffer("table", table.to(getattr(torch, dtype)))

        def forward(self, x):
            return super().forward(x) * self.table

    found = twincheck.pair(twincheck.torch(Table(), INPUT), twincheck.nnx(Sines(), INPUT)).check("float64")
    assert found.same, str(found)
    assert (NOTE.format("torch") in found.notes) == (dtype == "float32")
