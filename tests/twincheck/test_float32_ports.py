"""Ports in float32 by the default bound: right ones pass, and a small mistake is found."""

import re

import jax.numpy as jnp
import optax
import pytest
import torch
from flax import nnx
from torch import nn

import twincheck.record_jax
import twincheck.record_torch
from mlp_compare import compare, uniform
from twincheck.trace import rename

BATCH = 32


class FlaxModel(nnx.Module):
    def __init__(self, width, layers, epsilon):
        rngs = nnx.Rngs(0)
        self.linears = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(layers)])
        self.norms = nnx.List([nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs) for _ in range(layers)])

    def __call__(self, x):
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = nnx.gelu(norm(linear(x)), approximate=False)
        return x


class TorchModel(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(layers)])

    def forward(self, x):
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = nn.functional.gelu(norm(linear(x)))
        return x


def flax_name(name):
    renamed = name.replace("kernel", "weight").replace("scale", "weight")
    return (renamed, (1, 0)) if "kernel" in name else renamed


def ported(width, layers, epsilon):
    """Traces of a torch model and its port."""
    torch.manual_seed(0)
    model, port = TorchModel(width, layers), FlaxModel(width, layers, epsilon)
    x, labels = torch.randn(BATCH, width), torch.randint(0, width, (BATCH,))
    for linear, own in zip(model.linears, port.linears, strict=True):
        own.kernel.set_value(jnp.array(linear.weight.detach().numpy().T))
        own.bias.set_value(jnp.array(linear.bias.detach().numpy()))
    one = twincheck.record_torch.record(model, lambda output: nn.functional.cross_entropy(output, labels), x)
    y = jnp.array(labels.numpy())
    other = twincheck.record_jax.record(
        port, lambda output: optax.softmax_cross_entropy_with_integer_labels(output, y).mean(), jnp.array(x.numpy())
    )
    return one, rename(other, {name: flax_name(name) for name in other.tensors})


@pytest.mark.parametrize(
    ("width", "layers", "resolution"),
    [(16, 4, "3.[0-9]e-05"), pytest.param(32, 24, "1.9e-04", marks=pytest.mark.long("24 layers"))],
)
def test_a_right_port_is_the_same_and_the_result_says_how_far(width, layers, resolution, capsys):
    found = compare(*ported(width, layers, epsilon=1e-5), uniform("float32"))
    assert found.within, found.first
    assert re.search(
        f"mistakes of up to {resolution} of a tensor's largest value may not be seen; float64 would show smaller ones$",
        str(found),
    )
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2, "one for each side"
    assert all(line.startswith("warning: recorded in float32, whose rounding hides") for line in warnings)


@pytest.mark.parametrize("width", [16, pytest.param(64, marks=pytest.mark.long("another width"))])
def test_a_layer_norms_epsilon_is_found_and_the_result_says_what_to_do(width):
    found = compare(*ported(width, 1, epsilon=1e-6), uniform("float32"))
    assert found.first is not None
    assert found.first.name == "norms.0.output"
    fix = "; if this can be rounding, compare in float64, or allow longer sums, as by terms= of uniform"
    assert str(found) == f"{found.first}{fix}"
