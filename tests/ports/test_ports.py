"""Ports that are right pass without an alarm, forward and backward; mistakes in them are named."""

from typing import Any

import families
import jax
import pytest
from mutation_rates import Units, draws, judge, planted, side, touches
from mutations import MUTATIONS, PAIRS, make_pair

import twincheck as tc
from twincheck.check import Mismatch
from twincheck.report import UNKNOWN

SIDES = [(name, kind) for name in PAIRS for kind in ("nnx", "linen", "equinox", "haiku")]

AGREE = [name for name in families.FAMILIES if name not in families.DIFFERENT]

IN_FLOAT32 = (
    "bloom", "clip_text", "gemma", "gptj", "gpt_neo", "llama", "mistral", "pegasus", "roformer", "xglm",
)  # fmt: skip
"""Families that compute a part in float32, or hold a table in it, even in float64."""

PADDED = "padding-index"
"""torch gives the padding token's embedding no gradient, Flax does."""

NAMED = [
    "resnet/stem-same", "resnet/norm-epsilon-keras", "resnet/stem-activation", "vit/gelu-tanh", "vit/gelu-quick",
    "vit/linen-norm-epsilon", "vit/linen-gelu-tanh", "gru_tagger/update-gate-first", "gpt/sees-next", "gpt/untied",
]  # fmt: skip
"""Mutations that are to be located and named. `mutation_rates.py` measures all."""

THREE = [
    ("resnet/stem-activation", "resnet/block-norm-epsilon", "resnet/late-residual"),
    ("vit/gelu-tanh", "vit/no-positions", "vit/attention-scale-none"),
    ("gpt/sees-next", "gpt/no-activation", "gpt/scaled-embedding"),
]
"""The same, three at once."""

BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}


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


def window(layer: int) -> str:
    return f"between layers.{layer}.self_attn.v_proj and layers.{layer}.self_attn.o_proj"


FOUND = {
    "dinov2_resized": {
        "between embeddings.patch_embeddings.projection and encoder.layer.0.norm1": "positions-left-out"
    },
    "electra_untyped": {"between embeddings.position_embeddings and embeddings.LayerNorm": "bias-left-out"},
    "mistral_windowed": {window(0): UNKNOWN, window(1): UNKNOWN},
    "mistral_windowless": {window(0): UNKNOWN, window(1): UNKNOWN},
}
"""Where the forward pass of a family that differs is out, and what a check names there.

The resized positions and the token type of ELECTRA are an array added to each example. No cause fits a window.
"""


@pytest.mark.parametrize("name", FOUND)
def test_a_family_that_differs_is_located(name: str) -> None:
    report = family_pair(name).check()
    assert {str(place) for place in report.out if "gradient" not in place.kind} == FOUND[name].keys(), report
    named = {str(finding.places[0]): finding.name for finding in report.findings if finding.name != PADDED}
    assert named == FOUND[name], report


@pytest.mark.parametrize("names", [*((name,) for name in NAMED), *THREE], ids=" ".join)
def test_mistakes_are_located_and_named(names: tuple[str, ...]) -> None:
    mutations = [BY_NAME[name] for name in names]
    report = planted(mutations)
    outcomes = judge(report, mutations)
    assert all(outcome.located and outcome.named for outcome in outcomes), f"{outcomes}\n{report}"


def test_draws_are_three_mistakes_in_three_places() -> None:
    drawn = list(draws(20, list(PAIRS)))
    assert drawn == list(draws(20, list(PAIRS)))
    assert all(len(set(three)) == 3 for three in drawn)
    assert all(len({(mutation.pair, mutation.kind) for mutation in three}) == 1 for three in drawn)


def test_a_place_tests_the_code_of_the_modules_around_it() -> None:
    units = Units({"a.x", "a.b.y", "c"}, [["r.f", "r.g.h"]])

    def touched(kind: Any, before: str, after: str) -> set[str]:
        place = Mismatch(kind, before, after, "", None, 1.0, 0.0, 1.0)
        paths = ("", "a", "a.x", "a.b", "a.b.y", "a.b.drop", "c", "r", "r.f", "r.g.h", "r.g.h.i")
        return {path for path in paths if touches(place, path, units)}

    assert touched("module", "a.x", "a.x") == {"a.x"}
    assert touched("code", "a.x", "a.b.y") == {"a", "a.b", "a.b.drop"}
    assert touched("code", "a.b.y (call 1)", "c") == {"", "a", "a.b", "a.b.drop", "r", "r.f", "r.g.h", "r.g.h.i"}
    assert touched("gradient of parameter", "", "a.b.y.kernel") == {"a.b.y"}
    assert touched("gradient of parameter", "", "a.b.scale") == {"a.b", "a.b.drop"}
