"""What one model computes in a module, and the other behind it."""

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
