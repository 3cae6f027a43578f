"""The benchmark's figures follow from the samples, and its tables from the figures."""

import copy
import re

import numpy as np
import pytest
from helpers import ROOT
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mlp_compare.bench import benchmark, picture, tables
from mlp_compare.bench.timings import break_even, medians, ratio
from mlp_compare.bench.variants import CONTROL, SEEDS_VARIANTS, VARIANTS
from mlp_compare.figures import COLOURS, INK
from mlp_workload.errors import UserError


@pytest.fixture
def result():
    return tables.read(ROOT / "docs/benchmark.json")


def test_ratios_are_taken_within_rounds():
    busy = np.array([1.0, 3.0, 1.1, 2.0, 1.3, 1.7])
    seconds = {"a": (0.9 * busy).tolist(), "b": busy.tolist(), "c": (busy * [1, 1.1, 0.9, 1.05, 1, 0.95]).tolist()}
    found = ratio(seconds, "a", "b")
    assert (found.ratio, found.rounds) == (pytest.approx(0.9), 6)
    assert found.half_width == pytest.approx(0, abs=1e-9), "the busy machine cancels"
    other = ratio(seconds, "c", "b")
    assert other.low < other.ratio < other.high
    assert other.low <= 1 <= other.high
    few = ratio({name: some[:4] for name, some in seconds.items()}, "c", "b")
    assert (few.low, few.high) == (pytest.approx(0.9), pytest.approx(1.1)), "of four rounds only the range is said"
    assert str(few) == "1.025 (0.900 to 1.100, all of 4 rounds)"


@pytest.mark.parametrize(
    ("ready", "epoch", "expected"),
    [
        ((3.0, 1.0), (0.3, 0.5), "from 10 epochs on"),
        ((1.0, 3.0), (0.3, 0.5), "from the start"),
        ((1.0, 3.0), (0.5, 0.3), "for 10 epochs"),
        ((3.0, 1.0), (0.5, 0.3), "never"),
        ((3.0, 1.0), (0.5, 0.5), "never"),
    ],
)
def test_break_even(ready, epoch, expected):
    assert break_even(ready, epoch) == expected


def shown(page: str, comment: str) -> str:
    return (ROOT / page).read_text().partition(f"<!-- {comment} -->\n")[2].partition("\n<!-- end -->")[0]


def test_the_pages_tables_are_the_benchmarks(result):
    command = "python -m mlp_compare.bench.tables docs/benchmark.json"
    assert shown("docs/benchmark.md", command) == tables.markdown(result)
    rows = shown("README.md", f"rows of {command}").splitlines()
    assert len(rows) > 2
    assert set(rows) <= set(tables.markdown(result).splitlines())


def test_the_published_benchmark_is_whole_and_controlled(result):
    """Every variant of a CPU, the commands and the sweep; the control within 3 % of 1."""
    assert not [
        name for name, variant in VARIANTS.items() if variant.device != "gpu" and name not in result["variants"]
    ]
    assert len(result["whole"]) == 10
    assert not [name for name in SEEDS_VARIANTS if name not in result["seeds"]["variants"]]
    assert {point["batch_size"] for point in result["sweep"]} == set(benchmark.BATCH_SIZES)
    assert {tuple(point["hidden"]) for point in result["sweep"]} == {(width, width) for width in benchmark.WIDTHS}
    assert abs(tables.Figures(result).ratio(CONTROL, "jax").ratio - 1) < 0.03


@pytest.mark.parametrize(
    "left", [["jax", "torch"], ["jax", "torch", "products-torch"], ["torch", "products-jax"], ["jax"]]
)
def test_any_choice_of_variants_is_shown(result, left):
    result |= {
        "variants": {name: result["variants"][name] for name in [*left, CONTROL]},
        "first": left[0],
        "seeds": {},
        "whole": {},
        "sweep": [],
    }
    assert tables.View.of(result).remarks
    assert b"<svg" in picture.draw(result)
    assert result["variants"][left[0]]["name"] in tables.markdown(result)


def test_the_picture_has_a_bar_for_each_variant_from_the_control_and_the_fastest_down(result):
    figures, axes = tables.Figures(result), Figure().subplots()
    picture._draw_epochs(axes, figures)
    names = [CONTROL, *figures.ordered()]
    assert [label.get_text() for label in axes.get_yticklabels()][::-1] == [figures.title(name) for name in names]
    bars = list(axes.patches)[::-1]
    np.testing.assert_allclose([bar.get_width() for bar in bars], [np.median(figures.seconds[name]) for name in names])
    kinds = {"jax": COLOURS[0], "control": COLOURS[0], "torch": COLOURS[1], "peer": COLOURS[2], "lower_bound": INK}
    for name, bar in zip(names, bars, strict=True):
        assert to_hex(bar.get_facecolor()) == kinds[figures.variants[name]["kind"]]


@pytest.mark.parametrize("varied", ["batch size", "width"])
def test_the_picture_of_a_sweep_has_microseconds_an_example(varied, result):
    figures, axes = tables.Figures(result), Figure().subplots()
    picture._draw_sweep(axes, figures, varied)
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == [figures.title(name) for name in ("jax", "torch", "torch-hand")]
    for name in ("jax", "torch", "torch-hand"):
        points = [point for point in result["sweep"] if (point["varied"], point["variant"]) == (varied, name)]
        line = lines[figures.title(name)]
        expected = benchmark.BATCH_SIZES if varied == "batch size" else benchmark.WIDTHS
        assert line.get_xdata().tolist() == list(expected)
        cost = [np.median(point["epoch_seconds"]) / point["examples"] for point in points]
        np.testing.assert_allclose(line.get_ydata(), np.multiply(cost, 1e6))
        assert (line.get_linestyle() == "--") == (name == "torch-hand")


@pytest.mark.parametrize(
    ("quota", "cores", "words"),
    [
        (None, 2, None),
        (1.0, 1, None),
        (2.5, 1, None),
        (0.5, 1, "the kernel pauses each process, so that work of 0.5 s on a whole core takes about 1 s here"),
        (1.5, 1, "products have a thread for each whole core of it (1), and what is over is left idle"),
    ],
)
def test_under_a_cpu_quota_it_says_what_its_seconds_mean(quota, cores, words, result):
    changed = result | {"cores": cores, "environment": result["environment"] | {"cpu_quota": quota}}
    view = tables.View.of(changed)
    assert (f"{cores} cores under a CPU quota of" in view.setting) == (quota is not None)
    remarks = [remark for remark in view.remarks if "quota" in remark]
    ending = "ratios hold for processes under this quota"
    assert remarks == ([] if words is None else [f"under a CPU quota of {quota} {words}; {ending}"])


def test_where_pytorch_wins_follows_from_the_samples(result):
    """Made ten times as fast, PyTorch wins an epoch; made ten times as slow, nothing of it is said."""

    def wins(factor):
        changed = copy.deepcopy(result)
        for sample in changed["variants"]["torch"]["samples"]:
            sample["epoch_seconds"] = [factor * seconds for seconds in sample["epoch_seconds"]]
        return [line for line in tables.View.of(changed).torch_wins if line.startswith("PyTorch, eager trains")]

    assert wins(0.1)
    assert not wins(10)


def test_pytorch_wins_only_if_the_whole_interval_says_so(result):
    changed = copy.deepcopy(result)
    jax, torch = (changed["variants"][name]["samples"] for name in ("jax", "torch"))
    for number, (one, other) in enumerate(zip(jax, torch, strict=True)):
        other["epoch_seconds"] = [np.median(one["epoch_seconds"]) * (1.2 if number % 2 else 0.8)]
    over = tables.Figures(changed).ratio("jax", "torch")
    assert over.low < 1 < over.high
    assert not [line for line in tables.View.of(changed).torch_wins if line.startswith("PyTorch, eager trains")]


@pytest.mark.parametrize(("factor", "wins"), [(1.2, True), (1.1, False), (None, False)])
def test_pytorch_wins_a_point_of_the_sweep_if_it_is_clearly_ahead_there(factor, wins, result):
    """Without a factor nothing but JAX was timed there."""
    sample = {"batch_size": 64, "hidden": [100], "epoch_seconds": [1.0]}
    sweep = [sample | {"variant": "jax"}]
    if factor is not None:
        sweep.append(sample | {"variant": "torch", "epoch_seconds": [1 / factor]})
    lines = list(tables.View.of(result | {"sweep": sweep}).torch_wins)
    assert (
        any(line.startswith("batches of 64, hidden layers of 100: PyTorch, eager, ratio 1.2") for line in lines) is wins
    )


@pytest.mark.parametrize(("factor", "wins"), [(1.1, True), (0.9, False)])
def test_where_pytorch_trains_several_models_faster_follows_from_the_samples(factor, wins, result):
    changed = copy.deepcopy(result)
    jax, torch = (changed["seeds"]["variants"][name]["samples"] for name in ("jax-vmap", "torch-vmap"))
    for one, other in zip(jax, torch, strict=True):
        one["epoch_seconds"] = [factor * seconds for seconds in other["epoch_seconds"]]
    line = "8 models, PyTorch, torch.func.vmap against JAX, one vmapped program: ratio"
    assert any(one.startswith(line) for one in tables.View.of(changed).torch_wins) is wins


def test_all_that_was_left_out_is_said(result):
    changed = copy.deepcopy(result) | {"left_out": {"sklearn": "one: no memory"}}
    changed["seeds"]["left_out"] = {"torch-vmap": "other: fails"}
    page = tables.markdown(changed)
    for line in ("- left out: one: no memory", "- left out: other: fails"):
        assert line in page.splitlines()


def test_a_quantity_that_one_process_lacks_has_no_median():
    samples = [{"total_seconds": 1.0, "to_target_seconds": 2.0}, {"total_seconds": 3.0}]
    assert medians(samples) == {"total_seconds": 2.0}
    epochs = [{"epoch_seconds": [1.0, 2.0, 6.0], "device": "cpu"}, {"epoch_seconds": [4.0], "device": "cpu"}]
    assert medians(epochs) == {"epoch_seconds": 3.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not what mlp_compare.bench writes"),
        ('{"kind": "benchmark", "format": 9}', "has format 9, this reads 2 and 3"),
        ('{"kind": "benchmark", "format": 2, "variants": {}}', "is not a whole benchmark"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        tables.read(tmp_path / "file.json")
