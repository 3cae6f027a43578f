"""Tests of verdicts: differences that no single place shows, and what is said of what can't be compared."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import twincheck as tc
from mlp_workload.errors import UserError
from twincheck import diagnosis
from twincheck.causes.replace import functions
from twincheck.causes.table import BY_NAME
from twincheck.layouts import Layout, nearest, output_layout
from twincheck.pairs import Pair
from twincheck.report import UNKNOWN
from twincheck.torch_side import to_numpy

IDS = np.array([[1, 2, 3], [3, 0, 1]])
X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


class ScaledEmbedding(torch.nn.Embedding):
    def forward(self, ids: Any) -> Any:
        return super().forward(ids) * 3.0


class TorchResidual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = ScaledEmbedding(5, 6), torch.nn.Linear(6, 6)

    def forward(self, ids: Any) -> Any:
        hidden = self.embed(ids)
        return self.linear(hidden) + hidden


class Residual(nnx.Module):
    """Scales behind the embedding what goes into the layer, and what goes around it by `around`."""

    def __init__(self, around: float) -> None:
        rngs = nnx.Rngs(0)
        self.embed, self.linear, self.around = nnx.Embed(5, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs), around

    def __call__(self, ids: Any) -> Any:
        hidden = self.embed(ids)
        return self.linear(hidden * 3.0) + hidden * self.around


@pytest.mark.parametrize("backward", [True, False])
def test_a_line_drawn_elsewhere_hides_no_mistake_in_the_same_tensor(backward: bool) -> None:
    def report(around: float) -> Any:
        return tc.pair(tc.torch(TorchResidual(), IDS), tc.nnx(Residual(around), IDS), backward=backward).check()

    assert report(3.0).same
    wrong = report(1.0)
    assert "between linear and output 0" in {str(place) for place in wrong.out}


class TorchReturning(torch.nn.Module):
    def __init__(self, returned: Callable[[Any], Any]) -> None:
        super().__init__()
        self.linear, self.returned = torch.nn.Linear(6, 4), returned

    def forward(self, x: Any) -> Any:
        return self.returned(self.linear(x))


class Returning(nnx.Module):
    def __init__(self, returned: Callable[[Any], Any]) -> None:
        self.linear, self.returned = nnx.Linear(6, 4, rngs=nnx.Rngs(0)), returned

    def __call__(self, x: Any) -> Any:
        return self.returned(self.linear(x))


def check(theirs: Callable[[Any], Any], ours: Callable[[Any], Any], **options: Any) -> Any:
    torch.manual_seed(0)
    return tc.pair(tc.torch(TorchReturning(theirs), X), tc.nnx(Returning(ours), X), **options).check()


def scores(hidden: Any) -> Any:
    return hidden @ hidden.T * hidden[:, :1]


OUTPUTS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], int]] = {
    "a square matrix": (scores, lambda y: scores(y).T, 0),
    "integers": (lambda y: (y, y.argmax(-1)), lambda y: (y, y.argmin(-1)), 1),
    "booleans": (lambda y: (y, y > 0), lambda y: (y, y < 0), 1),
    "complex numbers": (lambda y: (y, torch.fft.fft(y)), lambda y: (y, jnp.conj(jnp.fft.fft(y))), 1),
    "the first example": (lambda y: y, lambda y: y[:1], 0),
}


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_output_that_is_wrong_is_out(kind: str, backward: bool) -> None:
    theirs, ours, number = OUTPUTS[kind]
    report = check(theirs, ours, backward=backward)
    assert f"between linear and output {number}" in {str(place) for place in report.out}
    assert f"output {number} of the JAX model, run by itself, is off by" in str(report)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (scores, scores),
        (lambda y: (y, y.argmax(-1), y > 0), lambda y: (y, y.argmax(-1), y > 0)),
        (lambda y: (y, torch.fft.fft(y)), lambda y: (y, jnp.fft.fft(y))),
    ],
)
def test_outputs_of_all_types_that_are_right(theirs: Any, ours: Any) -> None:
    report = check(theirs, ours)
    assert report.same, str(report)
    assert len([place for place in report.places if place.after.startswith("output")]) == len(report.free)


def test_outputs_without_a_counterpart_are_named() -> None:
    report = check(lambda y: (y, y[0, 0], y.sum(0)), lambda y: (y, y[None, None, None]))
    assert "not compared: output 1, 2 of the torch model" in report.notes
    assert "not compared: output 1 of the flax.nnx model" in report.notes


def test_a_model_that_is_wrong_only_when_it_runs_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    forced, factor = Pair.forced, {"by itself": 1.5}

    def with_right_factor(self: Pair, *arguments: Any) -> Any:
        with monkeypatch.context() as patches:
            patches.setitem(factor, "by itself", 1.0)
            return forced(self, *arguments)

    monkeypatch.setattr(Pair, "forced", with_right_factor)
    report = check(lambda y: y, lambda y: y * factor["by itself"])
    assert [str(place) for place in report.out] == ["output 0 of the JAX model run by itself"]
    assert report.verdict == "not the same model: 1 of 7 places of unknown cause"


@pytest.mark.parametrize(
    ("theirs", "ours", "causes", "noted"),
    [
        (lambda y: y.cos() * y.exp(), jax.nn.gelu, [UNKNOWN], True),
        (torch.nn.functional.gelu, jax.nn.gelu, ["gelu-tanh"], False),
        (partial(torch.nn.functional.gelu, approximate="tanh"), jax.nn.gelu, [], False),
    ],
)
def test_a_cause_that_could_not_be_tried_is_a_note(
    theirs: Any, ours: Any, causes: list[str], noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> object:
        raise ValueError("no such thing")

    failing = replace(BY_NAME["gelu-erf"], patch=functions({"jax.nn.gelu": lambda gelu: fail}))
    monkeypatch.setattr(diagnosis, "HYPOTHESES", (failing, BY_NAME["gelu-tanh"]))
    report = check(theirs, lambda y: ours(y))
    assert list(dict.fromkeys(finding.name for finding in report.findings)) == causes, str(report)
    note = "not tried where the cause is unknown: gelu-erf (the JAX model fails then: ValueError: no such thing)"
    assert list(report.notes) == [note] * noted


def test_a_large_difference_in_float32_alone_is_kept_beside_rounding() -> None:
    """The second output is far off in float32, the first by so little that float64 has to decide."""
    report = check(
        lambda y: (y, y + 1),
        lambda y: (y * (1 + 3e-6 * (y.dtype == jnp.float32)), y + 1 + 0.1 * (y.dtype == jnp.float32)),
        backward=False,
    )
    assert [str(place) for place in report.out] == ["between linear and output 1"]


@pytest.mark.parametrize("dtype", ["double", "Float64", np.float64, None])
def test_another_type_is_refused(dtype: Any) -> None:
    pair = tc.pair(tc.torch(TorchReturning(abs), X), tc.nnx(Returning(abs), X))
    with pytest.raises(UserError, match=r'dtype is "float32" or "float64", not'):
        pair.check(dtype)


def test_a_random_torch_model_is_refused() -> None:
    with pytest.raises(UserError, match="the torch model's outputs are random: set its dropout rates to 0"):
        check(lambda y: torch.nn.functional.dropout(y, 0.5), lambda y: y)


class Unsaved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("no gradient here\nand more")


def test_a_torch_model_without_a_backward_pass() -> None:
    with pytest.raises(UserError, match=r"^the torch model's backward pass failed: no gradient here$"):
        check(Unsaved.apply, lambda y: y)
    assert check(Unsaved.apply, lambda y: y, backward=False).same


class TorchPooled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.pooler = torch.nn.Linear(6, 4), torch.nn.Linear(4, 3)
        self.register_buffer("table", torch.ones(7))

    def forward(self, x: Any) -> Any:
        return self.linear(x)


def test_forward_alone_a_parameter_without_a_counterpart_is_no_difference() -> None:
    def linear(y: Any) -> Any:
        return y

    torch.manual_seed(0)
    sides = tc.torch(TorchPooled(), X), tc.nnx(Returning(linear), X)
    forward = tc.pair(*sides, backward=False).check()
    assert forward.same
    assert forward.verdict == "the same in all 3 places, forward"
    assert not [place for place in forward.places if "gradient" in place.kind]
    assert {str(alone).partition(" (")[0]: alone.matters for alone in forward.unpaired} == {
        "torch pooler.weight": None, "torch pooler.bias": None, "torch table": None,
    }  # fmt: skip
    both = tc.pair(*sides).check()
    assert both.same
    assert {alone.name: alone.matters for alone in both.unpaired} == {
        "pooler.weight": False, "pooler.bias": False, "table": None,
    }  # fmt: skip
    assert "do not depend" not in next(str(alone) for alone in both.unpaired if alone.name == "table")


class TorchFused(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Conv2d(4, 12, 1)

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).chunk(3, 1)
        return q * k + v


class Apart(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.q, self.k, self.v = (nnx.Conv(4, 4, (1, 1), rngs=rngs) for _ in range(3))

    def __call__(self, x: Any) -> Any:
        return self.q(x) * self.k(x) + self.v(x)


class TorchApart(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, x: Any) -> Any:
        return self.q(x) * self.k(x) + self.v(x)


class Fused(nnx.Module):
    def __init__(self) -> None:
        self.qkv = nnx.Conv(4, 12, (1, 1), rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        q, k, v = jnp.split(self.qkv(x), 3, -1)
        return q * k + v


@pytest.mark.parametrize("side", [5, 6])
@pytest.mark.parametrize(("theirs", "ours"), [(TorchFused, Apart), (TorchApart, Fused)])
def test_convolutions_that_one_model_joins(theirs: Any, ours: Any, side: int) -> None:
    torch.manual_seed(0)
    images = np.random.default_rng(0).standard_normal((2, 4, side, 8)).astype(np.float32)
    pair = tc.pair(tc.torch(theirs(), images), tc.nnx(ours(), images.transpose(0, 2, 3, 1)))
    report = pair.check()
    assert report.same, str(report)
    assert len(pair.weights) == len(pair.jax.parameters)


def test_the_layout_of_scores_with_infinities() -> None:
    rng = np.random.default_rng(0)
    masked = np.where(rng.random((2, 5, 5)) < 0.3, -np.inf, rng.standard_normal((2, 5, 5)))
    assert nearest(masked, masked.transpose(0, 2, 1)) == Layout((2, 5, 5), (0, 2, 1))
    assert nearest(masked[:1].repeat(2, 0), masked[:1]) == Layout((1, 5, 5), first=(0,))
    assert nearest(masked, masked[:1]) is None


def test_a_square_output_has_the_order_that_other_tensors_show() -> None:
    image = np.random.default_rng(0).standard_normal((2, 4, 4, 4))
    last = image.transpose(0, 2, 3, 1)
    shown, guessed = Layout((2, 8, 8, 3), (0, 2, 3, 1)), Layout((2, 4, 4, 4), (0, 2, 3, 1))
    assert output_layout(image, last, [shown, None]) == guessed
    assert output_layout(image, last, [guessed]) == Layout((2, 4, 4, 4), (0, 1, 2, 3))


def test_types_that_numpy_lacks_become_float32() -> None:
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        array = to_numpy(torch.ones(3).to(dtype))
        assert array.dtype == np.float32
        assert array.tolist() == [1.0, 1.0, 1.0]


def test_a_pin_is_checked_against_a_side(tmp_path: Any) -> None:
    check(lambda y: y, lambda y: y).pin(tmp_path / "pin.npz")
    with pytest.raises(UserError, match=r"check_pin takes the file and a JAX side"):
        tc.check_pin(tmp_path / "pin.npz", Returning(jax.nn.relu))


@pytest.mark.parametrize(
    ("x", "message"),
    [(X[:0], "outputs of the torch model are empty"), (X * np.nan, "all outputs of the torch model are nan")],
    ids=["empty", "nan"],
)
def test_outputs_without_a_number_are_no_verdict(x: Any, message: str) -> None:
    model, port = TorchReturning(lambda hidden: hidden), Returning(lambda hidden: hidden)
    with pytest.raises(UserError, match=message):
        tc.pair(tc.torch(model, x), tc.nnx(port, x))


def test_values_that_are_nan_in_both_are_said() -> None:
    x = X.copy()
    x[1] = np.nan
    report = tc.pair(
        tc.torch(TorchReturning(lambda hidden: hidden), x), tc.nnx(Returning(lambda hidden: hidden), x)
    ).check()
    assert "not compared: 4 of 16 values of output 0, which are nan in the torch model" in report.notes
