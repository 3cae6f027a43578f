"""Ports that are right pass without an alarm, forward and backward; mistakes in them are named."""

from typing import Any

import families
import jax
import pytest
from mutations import MUTATIONS, PAIRS, Mutation, make_pair

import twincheck as tc
from examples.ports.pairs import JaxSide

SIDES = [(name, kind) for name in PAIRS for kind in ("nnx", "linen", "equinox", "haiku")]

AGREE = [name for name in families.FAMILIES if name not in families.DIFFERENT]

IN_FLOAT32 = (
    "bloom", "clip_text", "gemma", "gptj", "gpt_neo", "llama", "mistral", "pegasus", "roformer", "xglm",
)  # fmt: skip
"""Families that compute a part in float32, or hold a table in it, even in float64."""

PADDED = "padding-index"
"""torch gives the padding token's embedding no gradient, Flax does."""

NAMED = {
    "resnet/stem-same": "conv-padding",
    "resnet/norm-epsilon-keras": "norm-epsilon",
    "vit/gelu-tanh": "gelu-tanh",
    "vit/gelu-quick": "activation-gelu",
    "vit/linen-norm-epsilon": "norm-epsilon",
    "vit/linen-gelu-tanh": "gelu-tanh",
}
"""The causes that are to be named for these mutations."""


def side(kind: str, port: JaxSide) -> Any:
    if kind == "nnx":
        return tc.nnx(port.model, port.inputs, port.call)
    if kind == "linen":
        return tc.linen(*port.model, port.inputs)
    return tc.equinox(port.model, port.inputs, port.call) if kind == "equinox" else tc.haiku(*port.model, port.inputs)


@pytest.mark.parametrize("name", PAIRS)
def test_a_right_port_is_the_same(name: str) -> None:
    with jax.enable_x64(True):
        pair = make_pair(name, "float64")
    for kind, port in pair.jax.items():
        checked = tc.pair(tc.torch(pair.torch, pair.inputs), side(kind, port))
        for dtype in ("float32", "float64"):
            report = checked.check(dtype)
            assert report.same, f"{kind}, {dtype}: {report}"


def family_pair(name: str) -> Any:
    with jax.enable_x64(True):
        pair = families.pair(name, "float32" if name in families.FLOAT32_ONLY else "float64")
    port = tc.linen(pair.module, pair.variables, pair.jax_inputs, pair.call)
    return tc.pair(tc.torch(pair.torch_model, pair.torch_inputs), port)


@pytest.mark.parametrize("name", AGREE)
def test_a_family_that_agrees_is_the_same(name: str) -> None:
    pair = family_pair(name)
    for dtype in ("float32", "float64"):
        report = pair.check(dtype)
        assert {finding.name for finding in report.findings} <= {PADDED}, f"{dtype}: {report}"
        assert not [parameter for parameter in report.unpaired if parameter.matters], f"{dtype}: {report}"
    assert any("bounds are those of float32" in note for note in report.notes) == (name in IN_FLOAT32), report.notes


@pytest.mark.parametrize("name", ["electra_untyped", "mistral_windowed"])
def test_a_family_that_differs_is_found(name: str) -> None:
    assert not family_pair(name).check().same


@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m.name in NAMED], ids=lambda mutation: mutation.name)
def test_a_mistake_is_named(mutation: Mutation) -> None:
    pair = make_pair(mutation.pair)
    port = pair.jax[mutation.kind]
    changed = port._replace(model=mutation.plant(port.model))
    report = tc.pair(tc.torch(pair.torch, pair.inputs), side(mutation.kind, changed)).check()
    assert {finding.name for finding in report.findings} == {NAMED[mutation.name]}, str(report)
