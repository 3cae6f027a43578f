"""Two traces held together: what differs is named, and nothing that can't be compared passes."""

import numpy as np
import pytest

from mlp_compare import Bound, compare, uniform
from mlp_compare.parity.bound_table import kind, table
from mlp_workload.errors import UserError
from twincheck.trace import Trace

BOUND = Bound(relative=1e-6)


def bounds(name):
    return BOUND


def traces(**changes):
    """A trace and its copy with `changes`; three tensors, the second's largest magnitude is 4."""
    tensors = {
        "labels": np.array([1, 2, 3], np.int32),
        "x": np.array([[1.0, -2.0], [4.0, 0.0]]),
        "loss": np.array(0.5),
    }
    return Trace(tensors, {"framework": "jax"}), Trace(tensors | changes, {"framework": "torch"})


def x(*values):
    return np.array(values, np.float64).reshape(2, 2)


def test_equal_traces_are_within_any_bound():
    comparison = compare(*traces(), lambda name: Bound())
    assert comparison.within
    assert [found.absolute for found in comparison.differences] == [0, 0, 0]


def test_the_bound_is_relative_to_the_largest_magnitude_of_the_tensor():
    assert compare(*traces(x=x(1, -2, 4, 3.9e-6)), bounds).within
    found = compare(*traces(x=x(1, -2, 4, 4.1e-6)), bounds).first
    assert (found.name, found.index, found.a, found.b) == ("x", (1, 1), 0.0, 4.1e-6)
    assert (found.absolute, found.relative) == pytest.approx((4.1e-6, 4.1e-6 / 4))
    assert found.bound == pytest.approx(4e-6)
    assert str(found) == "x[1, 1]: 0.0 and 4.1e-06, 4.10e-06 apart, allowed 4.00e-06"


def test_the_wider_of_absolute_and_relative_counts():
    other = traces(x=x(1, -2, 4, 4.5e-6))
    assert compare(*other, lambda name: Bound(1e-6, 5e-6)).within
    assert compare(*other, lambda name: Bound(2e-6, 1e-7)).within
    assert not compare(*other, lambda name: Bound(1e-6, 4e-6)).within


def test_ulps_count_the_numbers_in_between():
    up = np.nextafter(np.nextafter(4.0, 5), 5)
    found = compare(*traces(x=x(1, -2, up, 0)), bounds).differences[1]
    assert found.ulps == 2


def test_the_first_in_causal_order_is_named_not_the_largest():
    comparison = compare(*traces(x=x(1.1, -2, 4, 0), loss=np.array(99.0)), bounds)
    assert comparison.first.name == "x"
    assert compare(*traces(labels=np.array([1, 0, 3], np.int32), x=x(9, 9, 9, 9)), bounds).first.name == "labels"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_on_one_side_and_on_both(value):
    broken = x(1, value, 4, 0)
    one, other = traces(x=broken)
    for pair in ((one, other), (other, one), (other, other)):
        found = compare(*pair, lambda name: Bound(1e9, 1e9)).first
        assert (found.name, found.index, found.absolute) == ("x", (0, 1), np.inf)


def test_whole_numbers_are_judged_where_they_differ_most():
    """Also where their difference has no place in their own type."""
    for one, other in (
        (np.array([1, 1, 5], np.int32), np.array([2, 9, 5], np.int32)),
        (np.array([0, 200, 1], np.uint8), np.array([1, 0, 1], np.uint8)),
        (np.array([0, -128], np.int8), np.array([1, 127], np.int8)),
    ):
        for a, b in ((one, other), (other, one)):
            found = compare(Trace({"n": a}), Trace({"n": b}), lambda name: Bound(absolute=5)).first
            assert (found.index, found.absolute) == ((1,), abs(int(one[1]) - int(other[1])))
            assert compare(Trace({"n": a}), Trace({"n": b}), lambda name: Bound(absolute=255)).within


def test_the_explained_part_is_taken_off_and_no_more():
    other = traces(x=x(1, -2, 4.5, 0))
    assert not compare(*other, bounds).within
    assert compare(*other, bounds, {"x": x(0, 0, 0.5, 0)}).within
    found = compare(*other, bounds, {"x": x(0, 0, 0.4, 0)}).first
    assert (found.index, found.a, found.b) == ((1, 0), 4.0, 4.5)
    assert found.absolute == pytest.approx(0.1)


def test_whole_numbers_are_equal_or_not():
    found = compare(*traces(labels=np.array([1, 2, 4], np.int32)), lambda name: Bound(relative=100)).first
    assert (found.name, found.index, found.a, found.b) == ("labels", (2,), 3.0, 4.0)


def test_unlike_shapes_are_a_mismatch():
    found = compare(*traces(x=x(1, 2, 3, 4).ravel()), bounds).first
    assert str(found) == "x: shapes (2, 2) and (4,)"


def test_missing_extra_and_unlike_types_are_refused_by_name():
    one, other = traces(loss=np.float32(0.5))
    with pytest.raises(UserError, match="loss is float64 in the trace of jax and float32 in that of torch"):
        compare(one, other, bounds)
    less = Trace({name: array for name, array in one.tensors.items() if name != "x"}, {"framework": "torch"})
    with pytest.raises(UserError, match="x is in the trace of jax and missing in that of torch"):
        compare(one, less, bounds)
    with pytest.raises(UserError, match="x is in the trace of jax and missing in that of torch"):
        compare(less, one, bounds)


def test_bounds_of_float32_grow_with_steps_and_terms_and_those_of_float64_hardly():
    for dtype in ("float32", "float64"):
        one, later, longer = table(dtype, 784), table(dtype, 784, steps=100), table(dtype, 4 * 784)
        assert later["logits"].relative == pytest.approx(10 * one["logits"].relative)
        assert longer["logits"].relative == pytest.approx(2 * one["logits"].relative)
        assert one["batch"] == later["batch"] == Bound(reason=one["batch"].reason)
        assert all(bound.reason for bound in one.values())
    assert table("float64", 784, 3000)["parameters"] == table("float64", 784)["parameters"]
    assert table("float64", 784, 3000)["parameters"].absolute == 1e-13
    assert table("float32", 784, 4)["parameters"].relative == 2 * table("float32", 784)["parameters"].relative
    assert uniform("float64")("anything").relative < 1e-12 < uniform("float32")("anything").relative


@pytest.mark.parametrize(
    ("spellings", "sums"),
    [
        (["float64", np.float64, np.dtype("<f8"), "d"], 1000),
        (["float32", np.float32, np.dtype("f4"), "single"], 16),
        (["float16", np.float16, np.dtype("e")], 16),
    ],
)
def test_the_default_of_uniform_is_by_precision_however_it_is_written(spellings, sums):
    found = {uniform(spelling)("anything").relative for spelling in spellings}
    assert found == {16 * sums**0.5 * float(np.finfo(spellings[0]).eps)}


def test_a_bound_that_grows_does_so_with_the_tensors_that_differ():
    names = [f"x{i}" for i in range(17)]
    one = Trace({"same": np.ones(1)} | {name: np.ones(1) for name in names})
    other = Trace({"same": np.ones(1)} | {name: np.full(1, 1 + 2e-6) for name in names})
    for grows, last in ((False, 4e-6), (True, 12e-6)):
        bound = Bound(4e-6, grows=grows)
        found = compare(one, other, lambda name, bound=bound: bound).differences
        assert [found[i].bound for i in (0, 1, 17)] == pytest.approx([4e-6, 4e-6, last], rel=1e-5)


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        (Bound(1e-6), "; mistakes of up to 1.0e-06 of a tensor's largest value may not be seen"),
        (Bound(1e-6, 1e-5), "; mistakes of up to 2.0e-05 of a tensor's largest value may not be seen"),
        (Bound(absolute=2e-3), "; mistakes of up to 4.0e-03 of a tensor's largest value may not be seen"),
        (Bound(), ""),
    ],
)
def test_what_may_not_be_seen_is_the_widest_bound_that_held(bound, said):
    """The largest values of `traces` are 4 and 0.5."""
    one, other = traces()
    zeros = {"zeros": np.zeros(2)}  # relative to which nothing is
    one, other = Trace(one.tensors | zeros, one.facts), Trace(other.tensors | zeros, other.facts)
    assert str(compare(one, other, lambda name: bound)) == f"the same in all 4 tensors{said}"


@pytest.mark.parametrize(
    ("dtype", "change", "fix"),
    [
        ("float64", 5e-6, "; if this can be rounding, allow longer sums, as by terms= of uniform"),
        (
            "float32",
            5e-6,
            "; if this can be rounding, compare in float64, or allow longer sums, as by terms= of uniform",
        ),
        ("float32", 5e-4, ""),
        ("float32", np.nan, ""),
    ],
)
def test_a_small_mismatch_says_what_to_do_if_it_can_be_rounding(dtype, change, fix):
    one, other = (Trace({"x": np.array([1 + added], dtype)}) for added in (0, change))
    found = compare(one, other, bounds)
    assert str(found) == f"{found.first}{fix}"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("batch.digest", "batch"),
        ("inputs", "inputs"),
        ("layers.1.pre_activation", "pre_activations"),
        ("layers.1.activation", "activations"),
        ("logits", "logits"),
        ("logits.grad", "logits.grad"),
        ("loss", "loss"),
        ("layers.0.weight.grad", "gradients"),
        ("layers.0.bias.momentum", "momentums"),
        ("layers.0.bias", "parameters"),
        ("evaluation.losses", "evaluation.losses"),
    ],
)
def test_each_tensor_has_its_row_in_the_table(name, row):
    assert kind(name) == row
    assert row in table("float32", 10)


def test_large_whole_numbers_are_told_apart():
    one, other = traces(labels=np.array([2**53 + 1], np.int64))
    one = Trace(one.tensors | {"labels": np.array([2**53], np.int64)}, one.facts)
    assert compare(one, other, bounds).first.absolute == 1


@pytest.mark.parametrize("values", [np.array([1 + 1j]), np.array(["a"]), np.array([None])])
def test_what_has_no_distance_is_refused_by_name(values):
    one, other = traces(x=values)
    one = Trace(one.tensors | {"x": values}, one.facts)
    with pytest.raises(UserError, match=r"x is \S+, expected whole numbers or float16, float32 or float64"):
        compare(one, other, bounds)


def test_nothing_to_compare_is_no_agreement():
    with pytest.raises(UserError, match="nothing to compare"):
        compare(Trace({}), Trace({}), bounds)
