"""What one model computes in a module, and the other behind it."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import twincheck

IDS = np.random.default_rng(0).integers(0, 11, (2, 5))
SCALE = 8**0.5


class ScaledEmbedding(torch.nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * SCALE


class Original(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = ScaledEmbedding(11, 8)
        self.out = torch.nn.Linear(8, 3)

    def forward(self, ids):
        return self.out(self.table(ids))


class Port(nnx.Module):
    def __init__(self, scale=SCALE):
        rngs = nnx.Rngs(0)
        self.table = nnx.Embed(11, 8, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)
        self.scale = scale

    def __call__(self, ids):
        return self.out(self.table(ids) * self.scale)


def check(scale=SCALE):
    torch.manual_seed(0)
    return twincheck.pair(twincheck.torch(Original(), IDS), twincheck.nnx(Port(scale), IDS)).check()


@pytest.fixture(scope="module")
def right():
    return check()


def test_a_scale_behind_a_module_is_no_alarm_forward_and_backward(right):
    assert right.same, str(right)
    assert {str(place) for place in right.places if place.boundary} == {
        "table", "between table and out", "gradient, from out back to table", "gradient of table.embedding",
    }  # fmt: skip
    assert all(place.difference > place.allowed for place in right.places if place.boundary)


def test_a_wrong_scale_behind_a_module_is_out():
    report = check(2.0)
    assert not report.same
    assert {"table", "between table and out"} <= {str(place) for place in report.places if place.out}


def test_a_pin_leaves_out_the_tensors_at_the_boundary(right, tmp_path):
    path = tmp_path / "port.npz"
    right.pin(path)
    names = {name for name in np.load(path) if name.startswith("tensor:")}
    assert names == {"tensor:out, output 0", "tensor:output 0"}
    twincheck.check_pin(path, twincheck.nnx(Port(), IDS))
    with pytest.raises(AssertionError, match="2 of 2 tensors differ from torch's; the first: out, output 0 by "):
        twincheck.check_pin(path, twincheck.nnx(Port(2.0), IDS))


IMAGES = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


class Cropped(torch.nn.Module):
    """Pads before a convolution, and cuts off behind another what that pads."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.Conv2d(4, 5, 3, padding=2)

    def forward(self, x):
        x = self.a(torch.nn.functional.pad(x, (0, 1, 0, 1)))
        return self.b(x)[..., :4, :4].tanh()


class Padded(nnx.Module):
    def __init__(self, first="SAME", second=2):
        rngs = nnx.Rngs(0)
        self.a = nnx.Conv(3, 4, (3, 3), strides=2, padding=first, rngs=rngs)
        self.b = nnx.Conv(4, 5, (3, 3), padding="VALID", rngs=rngs)
        self.second = second

    def __call__(self, x):
        x = jnp.pad(self.a(x), ((0, 0), (self.second, 2 - self.second), (self.second, 2 - self.second), (0, 0)))
        return jnp.tanh(self.b(x))


def check_padding(**options):
    torch.manual_seed(0)
    sides = twincheck.torch(Cropped(), IMAGES), twincheck.nnx(Padded(**options), IMAGES.transpose(0, 2, 3, 1))
    return twincheck.pair(*sides).check()


def test_padding_before_a_module_or_in_it_is_no_alarm():
    report = check_padding()
    assert report.same, str(report)
    assert {str(place) for place in report.places if place.boundary} == {
        "between the inputs and a", "between a and b", "b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "place"),
    [({"first": 1}, "between the inputs and a"), ({"second": 1}, "between b and output 0")],
)
def test_wrong_padding_before_a_module_is_out(options, place):
    report = check_padding(**options)
    assert place in {str(place) for place in report.places if place.out}, str(report)


class NormAndActivation(torch.nn.BatchNorm2d):
    def forward(self, x):
        return torch.nn.functional.silu(super().forward(x))


class Gated(torch.nn.Module):
    """Has an activation in the norm, whose output goes two ways."""

    def __init__(self):
        super().__init__()
        self.norm, self.gate, self.out = NormAndActivation(3), torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.norm(x)
        return self.out(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())


class GatedPort(nnx.Module):
    def __init__(self, epsilon=1e-5):
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(3, epsilon=epsilon, rngs=rngs)
        self.gate, self.out = nnx.Conv(3, 3, (1, 1), rngs=rngs), nnx.Conv(3, 4, (1, 1), rngs=rngs)

    def __call__(self, x):
        x = nnx.silu(self.norm(x))
        return self.out(x * nnx.sigmoid(self.gate(x.mean((1, 2), keepdims=True))))


def check_gate(**options):
    torch.manual_seed(0)
    sides = twincheck.torch(Gated(), IMAGES), twincheck.nnx(GatedPort(**options), IMAGES.transpose(0, 2, 3, 1))
    return twincheck.pair(*sides).check()


def test_an_activation_in_a_module_or_behind_it_is_no_alarm_on_any_way_from_there():
    report = check_gate()
    assert report.same, str(report)
    assert {"norm", "between norm and gate", "between gate and out"} <= {
        str(place) for place in report.places if place.boundary
    }


def test_a_fault_in_a_module_that_ends_elsewhere_is_named_with_its_own_size():
    report = check_gate(epsilon=1e-3)
    assert report.findings[0].name == "norm-epsilon", str(report)
    assert {str(place) for place in report.unexplained} <= {"gradient of norm.scale", "gradient of norm.bias"}
    assert max(place.relative for place in report.out) < 1e-2


class Both(torch.nn.Module):
    """A scaled embedding, and a norm whose output goes through an activation and around it."""

    def __init__(self):
        super().__init__()
        self.table, self.norm, self.out = ScaledEmbedding(11, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 8)

    def forward(self, ids):
        normed = self.norm(self.table(ids))
        return self.out(torch.relu(normed)) + normed


class BothPort(nnx.Module):
    """Scales behind the embedding, which is right, and has a wrong norm and a wrong activation."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.table, self.norm, self.out = (
            nnx.Embed(11, 8, rngs=rngs), nnx.LayerNorm(8, epsilon=0.1, rngs=rngs), nnx.Linear(8, 8, rngs=rngs),
        )  # fmt: skip

    def __call__(self, ids):
        normed = self.norm(self.table(ids) * SCALE)
        return self.out(nnx.silu(normed)) + normed


def test_mistakes_beside_a_right_scale_spoil_no_place_that_agrees():
    torch.manual_seed(0)
    report = twincheck.pair(twincheck.torch(Both(), IDS), twincheck.nnx(BothPort(), IDS), backward=False).check()
    assert {str(place) for place in report.out} == {"norm", "between norm and out"}, str(report)
