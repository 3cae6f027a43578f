"""Ports that are right pass without an alarm, forward and backward; mistakes in them are named."""

from typing import Any

import families
import pytest
from mutations import MUTATIONS, PAIRS, Mutation, make_pair

import twincheck as tc
from examples.ports.pairs import JaxSide

SIDES = [(name, kind) for name in PAIRS for kind in ("nnx", "linen", "equinox", "haiku")]

AGREE = [
    "albert", "bart", "beit", "bert", "clip_vision", "distilbert", "electra", "gpt2", "llama", "opt", "resnet",
    "roberta", "vit", "wav2vec2",
]  # fmt: skip

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


def side(kind: str, jax: JaxSide) -> Any:
    if kind == "nnx":
        return tc.nnx(jax.model, jax.inputs, jax.call)
    if kind == "linen":
        return tc.linen(*jax.model, jax.inputs)
    return tc.equinox(jax.model, jax.inputs, jax.call) if kind == "equinox" else tc.haiku(*jax.model, jax.inputs)


@pytest.mark.parametrize("name", PAIRS)
def test_a_right_port_is_the_same(name: str) -> None:
    pair = make_pair(name)
    for kind, jax in pair.jax.items():
        report = tc.pair(tc.torch(pair.torch, pair.inputs), side(kind, jax)).check()
        assert report.same, f"{kind}: {report}"


def family_report(name: str) -> Any:
    pair = families.pair(name)
    jax = tc.linen(pair.module, pair.variables, pair.jax_inputs, pair.call)
    return tc.pair(tc.torch(pair.torch_model, pair.torch_inputs), jax).check()


@pytest.mark.parametrize("name", AGREE)
def test_a_family_that_agrees_is_the_same(name: str) -> None:
    report = family_report(name)
    assert {finding.name for finding in report.findings} <= {PADDED}, str(report)
    assert not [parameter for parameter in report.unpaired if parameter.matters], str(report)


@pytest.mark.parametrize("name", ["electra_untyped", "mistral_windowed"])
def test_a_family_that_differs_is_found(name: str) -> None:
    assert not family_report(name).same


@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m.name in NAMED], ids=lambda mutation: mutation.name)
def test_a_mistake_is_named(mutation: Mutation) -> None:
    pair = make_pair(mutation.pair)
    jax = pair.jax[mutation.kind]
    changed = jax._replace(model=mutation.plant(jax.model))
    report = tc.pair(tc.torch(pair.torch, pair.inputs), side(mutation.kind, changed)).check()
    assert {finding.name for finding in report.findings} == {NAMED[mutation.name]}, str(report)
