"""A report as text and as JSON."""

import dataclasses
import io
import json

import numpy as np
import pytest
import small_port
from rich.console import Console

import twincheck
from mlp_workload.errors import UserError
from twincheck.check import Mismatch
from twincheck.report import Finding, size_of
from twincheck.unpaired import unpaired
from twincheck.weights import Layout, Source, Weight


@pytest.fixture(scope="module")
def right():
    return twincheck.assert_same(*small_port.right())


@pytest.fixture(scope="module")
def wrong():
    """A report whose causes are not known."""
    return dataclasses.replace(twincheck.pair(*small_port.wrong()).check(), findings=())


def explained(report, **changes):
    """The report with a cause for all but its last place that is out."""
    finding = Finding(
        "gelu-tanh", "GELU by tanh.", "approximate=False", tuple(report.out[:-1]), "seen", ("https://docs.example/a",)
    )
    return dataclasses.replace(report, findings=[finding], **changes)


def test_the_same_model_is_said_to_be_the_same(right):
    lines = str(right).splitlines()
    assert lines[0] == f"the same in all {len(right.places)} places, forward and backward"
    assert len(lines) == 2
    assert lines[1].startswith("output 0 of the JAX model, run by itself, is off by ")


def test_a_difference_of_unknown_cause_has_its_place_and_size(wrong):
    text = str(wrong)
    assert (
        text.splitlines()[0] == f"not the same model: {len(wrong.out)} of {len(wrong.places)} places of unknown cause"
    )
    assert "between n and b (torch: b)" not in text  # names that are the same stand once
    (place,) = [place for place in wrong.out if str(place) == "between n and b"]
    assert f"{place.relative:.1e} (allowed {place.allowed / place.scale:.1e})  between n and b" in text


def test_causes_come_first_with_what_to_do(wrong):
    report = explained(wrong, notes=("a note",))
    lines = str(report).splitlines()
    count = len(wrong.out) - 1
    assert lines[0] == (
        f"not the same model: 1 cause in {count} of {len(wrong.places)} places, 1 place of unknown cause"
    )
    assert lines[3:7] == [
        "1. gelu-tanh: GELU by tanh.",
        f"   where     {count} places, the first: {wrong.out[0]}",
        "   JAX       sub at small_port.py:20: "
        "return self.b(nnx.gelu(self.n(self.a(x)), approximate=self.approximate))",
        "   torch     native_layer_norm at small_port.py:38: "
        "return self.b(torch.nn.functional.gelu(self.n(self.a(x))))",
    ]
    assert lines[7:11] == [
        f"   size      up to {size_of(max(wrong.out[:-1], key=lambda place: place.relative))}",
        "   fix       approximate=False",
        "   evidence  seen",
        "   see       https://docs.example/a",
    ]
    assert lines.index("unknown cause (sizes relative to the largest value of the tensor)") > 10
    assert lines[-2:] == ["notes", "   a note"]


def test_few_places_of_unknown_cause_are_listed(wrong):
    places = [dataclasses.replace(wrong.out[0], after=f"n.{i}") for i in range(11)]
    text = str(dataclasses.replace(wrong, places=places))
    assert text.count("(allowed") == 8
    assert "   and 3 more: " in text


def test_shapes_that_do_not_fit_are_said(wrong):
    place = dataclasses.replace(
        wrong.out[0], difference=np.inf, allowed=0.0, scale=1.0, ours=np.zeros((2, 3)), theirs=np.zeros((4, 2))
    )
    assert "   shape (2, 3) in JAX, (4, 2) in torch  " in str(dataclasses.replace(wrong, places=[place]))


def test_names_cannot_write_to_the_terminal(wrong):
    place = dataclasses.replace(wrong.out[0], after="\x1b[31mred\u202e")
    text = str(dataclasses.replace(wrong, places=[place], notes=["\x1b[31m"]))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[31mred" in text


def test_only_a_terminal_gets_colours(wrong):
    def printed(**options):
        file = io.StringIO()
        Console(file=file, highlight=False, **options).print(wrong, soft_wrap=True)
        return file.getvalue()

    assert printed() == f"{wrong}\n"
    assert "\x1b[" in printed(force_terminal=True, color_system="standard")


def test_json_has_everything(wrong, tmp_path):
    report = explained(wrong)
    report.json(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content == json.loads(json.dumps(report.as_dict()))
    assert (content["same"], content["verdict"]) == (False, report.verdict)
    assert [place["difference"] for place in content["places"]] == [place.difference for place in report.places]
    assert [content["places"][i]["says"] for i in content["causes"][0]["places"]] == list(map(str, report.out[:-1]))
    assert content["unexplained"] == [report.places.index(report.out[-1])]
    assert 'state["a.weight"].T' in content["weights"]
    assert {"torch", "jax", "flax", "numpy"} <= content["versions"].keys()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "report.json"]


def test_json_has_null_for_what_is_no_number(wrong, tmp_path):
    place = dataclasses.replace(wrong.out[0], difference=np.nan)
    dataclasses.replace(wrong, places=[place]).json(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert (content["places"][0]["difference"], content["places"][0]["out"]) == (None, True)


@pytest.mark.parametrize("write", ["json", "html"])
def test_a_missing_folder_is_one_clear_error(write, wrong, tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*missing/report: No such file"):
        getattr(wrong, write)(tmp_path / "missing/report")


def test_assert_same_raises_the_report():
    with pytest.raises(AssertionError) as error:
        twincheck.assert_same(*small_port.wrong())
    assert str(error.value).startswith("not the same model: 2 causes in ")
    assert "1. norm-epsilon: " in str(error.value)
    assert "2. gelu-tanh: " in str(error.value)


def test_a_parameter_without_a_counterpart_is_named_with_the_nearest():
    report = twincheck.pair(*small_port.without_bias()).check()
    (alone,) = report.unpaired
    assert (alone.framework, alone.name, alone.shape, alone.matters) == ("torch", "a.bias", (8,), True)
    assert "torch a.bias (8,): nearest in JAX: n.bias (8,) or n.scale (8,)" in str(report)
    assert not report.same
    assert "1 parameter without a counterpart" in report.verdict


def test_a_parameter_that_no_output_depends_on_does_not_make_the_models_differ(right):
    shapes = {"used": (3, 2), "pooler": (5,), "n.num_batches_tracked": ()}
    gradients = {"used": np.ones((3, 2)), "pooler": np.full(5, 1e-17)}
    weights = [Weight("kernel", (Source("used"),), Layout((2, 3), (1, 0)))]
    found = unpaired(weights, [], (shapes, {"kernel": (2, 3)}), ((gradients,) * 2, ({"kernel": np.ones((2, 3))},) * 2))
    assert [(alone.name, alone.matters) for alone in found] == [("pooler", False)]
    assert str(found[0]) == "torch pooler (5,): nearest in JAX: kernel (2, 3); the outputs do not depend on it"
    report = dataclasses.replace(right, unpaired=found)
    assert report.same
    assert str(found[0]) in str(report)
    assert not dataclasses.replace(right, unpaired=[dataclasses.replace(found[0], matters=True)]).same


def test_a_place_that_is_not_a_number_is_out(right):
    place = Mismatch("module", "a", "a", "a", None, float("nan"), 1.0, 1.0)
    assert not dataclasses.replace(right, places=[place]).same
