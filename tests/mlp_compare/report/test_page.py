"""The report's words and numbers, on runs made for it."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from helpers import FACTS, ROOT, recorded, write_idx_folder
from matplotlib.figure import Figure
from PIL import Image

from mlp_compare.accuracy import measurement
from mlp_compare.accuracy.equivalence import equivalence
from mlp_compare.accuracy.measurement import Cell, Measurement
from mlp_compare.bench import tables
from mlp_compare.figures import INK, inline, style, to_svg
from mlp_compare.old_names import with_current_names
from mlp_compare.parity import bound_table, output
from mlp_compare.parity.result import Mismatch, Report, Worst
from mlp_compare.report.page import _draw_training, render
from mlp_workload.config import PRESETS
from mlp_workload.data import Dataset, Examples
from mlp_workload.events import Evaluated, RunStarted
from mlp_workload.files import to_json
from mlp_workload.initial import initial_parameters
from mlp_workload.metrics import Mistakes
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.weights import save_weights
from twincheck.comparison import Difference


@pytest.fixture
def without_curves(monkeypatch):
    """For tests of the words: most of the time goes into the pictures."""
    monkeypatch.setattr("mlp_compare.report.page._curves", lambda runs: [])


words_only = pytest.mark.usefixtures("without_curves")


def facts_with(framework="jax", **environment):
    return FACTS | {"framework": framework, "environment": FACTS["environment"] | environment}


@words_only
@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({}, None),
        ({"facts": facts_with(variables={"OMP_WAIT_POLICY": "PASSIVE", "LD_PRELOAD": "x"})}, None),
        ({"facts": facts_with(variables={"JAX_RANDOM_SEED_OFFSET": "3"})}, "JAX_RANDOM_SEED_OFFSET"),
        ({"facts": facts_with(variables={"NPROC": "1"})}, "NPROC"),
        ({"facts": facts_with(threads=2)}, "threads"),
        ({"resumed": [facts_with(variables={"XLA_FLAGS": "--x"})]}, "unset, then --x"),
        ({"resumed": [facts_with("torch")]}, "jax, then torch"),
        ({"facts": FACTS | {"environment": {"variables": 3}}}, None),
    ],
)
def test_settings_are_the_same_only_if_nothing_differs_that_changes_numbers(run, said):
    page = render([recorded(facts=facts_with(threads=1)), recorded("runs/b", **run)], [])
    assert ("all runs have the same settings" in page) == (said is None)
    assert said is None or said in page.partition("How the settings differ")[2].partition("<details>")[0]


@words_only
@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({}, "All runs saw the examples in the same order."),
        ({"batch_size": 100}, "in the same order, in batches of different sizes."),
        ({"epochs": 1}, "in the same order, as far as the shortest went, 1 epoch."),
        ({"digests": ("d1", "other")}, "The runs saw the examples in different orders."),
    ],
)
def test_it_says_whether_the_runs_saw_the_same(other, words):
    assert words in render([recorded(), recorded("runs/b", **other)], [])


@pytest.mark.parametrize("losses", [[1e308] * 3, [-1.7e308, 1.7e308], [1e308] * 2000], ids=["few", "signs", "many"])
def test_losses_at_the_end_of_float64_are_drawn_without_a_warning(losses):
    assert "training loss" in render([recorded(losses=losses)], [])


def test_nothing_on_the_page_steers_or_reorders_text():
    steer, shown = "a\x1b[2J\x07\u202eb\udcff", r"a\x1b[2J\x07\u202eb\udcff"
    facts = dict.fromkeys(("framework", "framework_version", "device", "dataset_digest"), steer)
    run = recorded(f"runs/{steer}", warnings=[f"lost classes ({steer})"], dataset=f"idx:{steer}")
    run = dataclasses.replace(run, facts=facts | {"environment": {"python": steer, "versions": {"jax": steer}}})
    page = render([run], [])
    assert page.count(shown) == page.count("2J") > 8
    assert all(line.isprintable() for line in re.sub("[\u2003\xa0]", " ", page).splitlines())


def test_curves_stand_at_their_steps():
    axes = Figure().subplots()
    _draw_training(axes, recorded(), {"color": "red"})
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 7))
    np.testing.assert_array_equal(line.get_ydata(), [3, 2, 1, 3, 2, 1])

    axes = Figure().subplots()
    _draw_training(axes, recorded(epochs=1, losses=range(900)), {"color": "red"})
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_xdata()[:2], [2, 5])
    np.testing.assert_allclose(line.get_ydata()[:2], [1, 4])


def test_a_curve_of_many_steps_is_means_over_examples():
    """The batches have 4, 4 and 2 examples; a point has three steps."""
    run = recorded(epochs=1, losses=[20.0, 10.0, 5.0] * 300, batch_size=4)
    axes = Figure().subplots()
    _draw_training(axes, dataclasses.replace(run, facts=FACTS | {"train_examples": 10}), {"color": "red"})
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [13] * 300)


@words_only
def test_recall_is_shown_by_class(tmp_path):
    """One class is in neither part, and one has no test example."""
    images, labels = np.zeros((4, 2, 2), np.uint8), np.array([1, 1, 2, 3], np.int32)
    dataset = Dataset("idx:x", Examples(images, labels), Examples(images[:3], labels[:3]), tuple("abcd"))
    config = dataclasses.replace(PRESETS["leaky"], dataset=write_idx_folder(tmp_path, dataset))
    facts = FACTS | {"dataset_digest": dataset.digest}
    evaluated = Evaluated(1, 3, 0.5, 0.1, 2, 3, Mistakes([0], [2]), 0.025)
    page = render([RecordedRun(tmp_path, config, facts, (RunStarted(config, facts), evaluated))], [])
    assert "the worst is 1 with 1 of 2 = 50.00%" in page
    assert re.findall("<dt>(.)</dt><dd>(.*?)</dd>", page.partition("Recall by class")[2])[:4] == [
        ("0", "0 of 0"), ("1", "1 of 2 = 50.00%"), ("2", "1 of 1 = 100.00%"), ("3", "0 of 0")
    ]  # fmt: skip


def test_names_and_warnings_are_text():
    page = render([recorded("a$5_$x"), recorded("_<script>", warnings=["<b>&"])], [])
    assert "a$5_$x" in page
    assert "_&lt;script&gt;" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<script" not in page


@words_only
def test_what_differs_comes_first_and_what_does_not_is_apart():
    page = render([recorded(), recorded("runs/b", learning_rate=0.5, hidden=())], [])
    different, same = re.search(r"How the settings differ(.*?)<details>(.*?)</details>", page, re.S).groups()
    assert re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', different) == [
        ("learning rate", "0.01", "0.5"), ("hidden", "200, 200", "none")
    ]  # fmt: skip
    assert "batch size" in same


@words_only
def test_the_times_add_up():
    page = render([recorded()], [])
    shares = [float(share) for share in re.findall(r'<span style="background:#\w+;width:([\d.]+)%', page)]
    np.testing.assert_allclose(shares, [25, 50, 12.5, 12.5], atol=0.01)


def test_a_run_without_data_weights_or_end_is_shown_as_far_as_it_goes():
    page = render([recorded(epochs=1, finished=False), recorded("runs/b", epochs=0, finished=False)], [])
    for words in ("not finished: 1 of 10 epochs", "no result yet", "The data set is gone", "Nothing was tested yet",
                  "did not get so far as to save its weights"):  # fmt: skip
        assert words in page


def test_a_run_that_diverged_hides_no_other():
    """Its weights are there and of no use, which is said; so it is of weights that are damaged."""
    figure = render([recorded(losses=[2.0, 1e18, np.nan]), recorded("runs/b")], [])
    ticks = [float(tick) for tick in re.findall(r">([\d.]+)</text>", figure.partition("</svg></figure>")[0])]
    assert 8 <= max(tick for tick in ticks if tick != 18) <= 10


@words_only
@pytest.mark.parametrize("content", ["damaged", "nan"])
def test_why_there_are_no_weights_is_said(content, mnist, tmp_path):
    run = recorded(tmp_path)
    facts = FACTS | {"dataset_digest": mnist.digest}
    run = dataclasses.replace(run, facts=facts)
    if content == "damaged":
        (tmp_path / "weights.safetensors").write_bytes(b"x" * 1000)
    else:
        parameters = initial_parameters("torch_linear", (784, 200, 200, 10), 0)
        parameters["layers.0.weight"][3, 4] = np.nan
        save_weights(tmp_path / "weights.safetensors", parameters)
    why = {"damaged": "not a readable", "nan": "layers.0.weight"}
    assert re.search(f"The weights are of no use: .*{why[content]}", render([run], []))


def run_on(dataset, monkeypatch, **options):
    monkeypatch.setattr("mlp_workload.run.recorded.load_if_present", lambda *_: dataset)
    return recorded(facts=FACTS | {"dataset_digest": dataset.digest}, **options)


def pixels(picture, mode):
    content = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert(mode))


@words_only
def test_mistakes_are_pictured_as_people_read_them_with_label_and_prediction(monkeypatch):
    images, labels = np.random.default_rng(0).integers(0, 256, (50, 4, 5), np.uint8), np.arange(50, dtype=np.int32) % 2
    dataset = Dataset("d", *[Examples(images, labels)] * 2, ("left", "right"), transposed=True)
    run = run_on(dataset, monkeypatch)
    wrong = [*range(3, 48)]
    last = dataclasses.replace(run.evaluations[-1], mistakes=Mistakes(wrong, [1 - labels[k] for k in wrong]))
    page = render([dataclasses.replace(run, events=(*run.events, last))], [])
    found = re.findall(r'<img src="([^"]*)" alt="test image (\d+)"[^>]*>(\w+) → (\w+)<', page)
    assert [int(example) for _, example, _, _ in found] == wrong[:40]
    assert "; the first 40," in page
    for picture, example, label, prediction in found:
        np.testing.assert_array_equal(pixels(picture, "L"), images[int(example)].T)
        assert (label, prediction) == (("left", "right"), ("right", "left"))[labels[int(example)]]


@words_only
@pytest.mark.parametrize(("units", "said"), [(21, "all 21 units"), (201, "the first 200 of 201 units")])
def test_the_weights_of_a_unit_are_a_tile_of_20_in_a_row(units, said, digits, monkeypatch, tmp_path):
    """Positive ones are blue and negative ones red; digits are of 6x5 pixels, with an edge around each tile."""
    weights = np.zeros((units, 6, 5), np.float32)
    weights[1, 0, 2], weights[20, 5, 0] = 1.0, -1.0
    run = run_on(digits, monkeypatch, folder=tmp_path, hidden=(units,))
    parameters = initial_parameters("torch_linear", (30, units, 3), 0) | {"layers.0.weight": weights.reshape(units, 30)}
    save_weights(
        tmp_path / "weights.safetensors", {name: array.astype(np.float32) for name, array in parameters.items()}
    )
    page = render([run], [])
    assert f"The weights of {said}, blue positive and red negative" in page
    (picture,) = re.findall(r'<img class="weights" src="([^"]*)"', page)
    red, _, blue = np.moveaxis(pixels(picture, "RGB").astype(int), -1, 0)
    assert red.shape == (8 * -(-min(units, 200) // 20), 7 * 20)
    np.testing.assert_array_equal(np.argwhere(blue > red + 50), [[1, 7 + 1 + 2]])
    np.testing.assert_array_equal(np.argwhere(red > blue + 50), [[8 + 1 + 5, 1]])


@words_only
def test_runs_in_folders_of_one_name_are_told_apart_and_each_has_a_line_of_its_own():
    page = render([recorded("runs/a"), recorded("others/a"), recorded("others/b")], [])
    assert len({*re.findall(r'stroke-dasharray="(.*?)"', page)}) == 3
    for folder in ("runs/a", "others/a"):
        assert f"</svg> {folder}" in page


@words_only
def test_the_times_of_a_run_that_is_not_finished_are_those_of_its_events():
    page = render([recorded(finished=False)], [])
    shares = [float(share) for share in re.findall(r'<span style="background:#\w+;width:([\d.]+)%', page)]
    np.testing.assert_allclose(shares, [80, 20], atol=0.01)


def test_results_of_tests_stand_at_their_steps(monkeypatch):
    drawn = {}

    def to_svg_too(figure):
        (axes,) = figure.axes
        drawn[axes.get_title()] = [line.get_xydata().tolist() for line in axes.lines]
        return to_svg(figure)

    monkeypatch.setattr("mlp_compare.report.page.to_svg", to_svg_too)
    render([recorded()], [])
    assert drawn["test loss"] == [[[3, 0.5], [6, 0.5]]]
    assert drawn["test accuracy"] == [[[3, 0.7], [6, 0.7]]]


def through_a_file(content):
    return json.loads(to_json(content))


@words_only
def test_accuracies_over_seeds_are_shown():
    counts = {"jax": [9000, 9010, 9020], "torch": [9001, 9009, 9021]}
    cell = Cell(PRESETS["leaky"], "paired", counts, equivalence(*counts.values(), paired=True, two_humps=False))
    content = through_a_file(measurement.as_json(Measurement([cell], {"jax": {}, "torch": {}})))
    page = render([recorded()], [content])
    assert "9000, 9010, 9020" in page
    assert "9001, 9009, 9021" in page
    assert f"<td>{cell.equivalence.result}</td>" in page


@words_only
@pytest.mark.parametrize("mismatched", [True, False])
def test_a_parity_check_is_shown(mismatched):
    found = Difference("layers.1.weight", (3, 4), 0.5, 0.25, 0.25, 0.5, 10.0, 1e-13)
    report = Report(worst={"parameters": Worst(7, found)}, steps_compared=7)
    report.mismatch = Mismatch(7, found) if mismatched else None
    facts = {side: {"environment": {}, "device": "cpu"} for side in ("jax", "torch")}
    content = through_a_file(output.as_json(PRESETS["leaky"], 9, report, facts, bound_table.table("float64", 784)))
    page = render([recorded()], [content])
    assert ("First mismatch: step 7, update, layers.1.weight[3, 4]: 0.5 and 0.25." in page) == mismatched
    assert ("All 7 steps are within their bounds." in page) == (not mismatched)


@words_only
def test_results_of_earlier_versions_are_shown():
    row = {"step": 1, "absolute": 0.25, "relative": 0.5, "ulps": 10.0, "bound": 0.1, "tensor": "loss", "index": []}
    old = {
        "config": {"preset": "relu", "dtype": "float32", "seed": 0},
        "within_bounds": False,
        "crossings": [],
        "first_departure": row | {"phase": "loss", "values": [0.5, 0.25]},
        "quantities": {"loss": row},
    }
    page = render([recorded()], [with_current_names(old)])
    assert "First mismatch: step 1, loss, loss: 0.5 and 0.25." in page
    assert with_current_names({"dataset": "many", "kind": "many"}) == {"dataset": "many", "kind": "seeds"}
    assert with_current_names([{"rung": "torch-article"}]) == [{"variant": "torch-tutorial"}]


def test_an_inline_figure_has_ids_of_its_own_and_names_no_host():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label="x")
    axes.fill_between([1, 2], [3, 4])
    one, other = (inline(to_svg(figure), name, "title") for name in ("one", "other"))
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, own in zip((one, other), ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text)) <= own
        assert "//" not in text
        assert "xlink" not in text


def test_a_figure_is_drawn_on_the_page_in_its_colour_of_text():
    with style():
        figure = Figure()
        figure.subplots().set(title="a title")
        text = inline(to_svg(figure), "name", "title")
    assert "currentColor" in text
    assert INK not in text
    assert "fill: #ffffff" not in text


@words_only
def test_a_benchmark_is_shown_with_its_picture():
    page = render([recorded()], [tables.read(ROOT / "docs/benchmark.json")])
    assert "JAX, an epoch a program" in page
    assert "control: the first variant over itself" in page
    assert "<h3>Where PyTorch wins</h3>" in page
    assert 'aria-label="seconds for an epoch by library"' in page
    assert "xlink" not in page
