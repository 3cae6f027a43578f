"""What the windows show, whatever server there is."""

import dataclasses
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mlp_workload.config import Config
from mlp_workload.events import Evaluated, RunStarted, TrainLosses
from mlp_workload.metrics import Mistakes
from mlp_workload.sinks import visdom
from mlp_workload.visdom.picture import Curve, Picture
from mlp_workload.visdom.server import VisdomServer
from mlp_workload.visdom.windows import LONGEST_NAME, comparison_name, environment_name, trace_name

DIGEST = "0a1b2c3d4e5f"


def test_a_curve_has_each_point_once_in_its_place():
    curve = Curve()
    curve.add(1, [3.0, 2.0, np.inf])
    curve.add(4, 1.0)
    steps, values = curve.points()
    np.testing.assert_array_equal(steps, [1, 2, 3, 4])
    np.testing.assert_array_equal(values, [3, 2, np.nan, 1])


@pytest.mark.parametrize(
    ("count", "limit", "points"), [(10, 10, 10), (11, 10, 6), (30, 10, 10), (31, 10, 8), (7, 1, 1)]
)
def test_a_long_curve_is_means_of_neighbours(count, limit, points):
    curve, values = Curve(), np.random.default_rng(0).normal(size=count)
    curve.add(1, values)
    steps, means = curve.points(limit)
    assert len(steps) == len(means) == points
    size = -(-count // limit)
    for i in range(points):
        group = slice(i * size, min((i + 1) * size, count))
        assert means[i] == pytest.approx(values[group].mean())
        assert steps[i] == pytest.approx(np.arange(1, count + 1)[group].mean())


def test_a_long_curve_of_losses_is_means_over_examples():
    """Each epoch has batches of 4, 4 and 2 examples; a point has three steps."""
    picture = Picture(None)
    picture.take(RunStarted(Config(batch_size=4), {"train_examples": 10}))
    for epoch in range(1, 5):
        picture.take(TrainLosses(epoch, 3 * epoch - 2, np.array([20.0, 10.0, 5.0]), "", 0.1))
    steps, means = picture.train_loss.points(limit=4)
    np.testing.assert_array_equal(steps, [2, 5, 8, 11])
    np.testing.assert_array_equal(means, [13] * 4)
    np.testing.assert_array_equal(picture.train_loss.points(limit=2)[1], [13] * 2)


def test_wrong_predictions_stand_out(digits):
    picture = Picture(digits)
    picture.take(Evaluated(1, 7, 0.5, 0.1, 29, 31, Mistakes([1, 30], [2, 1]), 0.1))
    assert "step 7: 29 of the first 31 right" in picture.labels
    assert picture.labels.count("#b00020") == 2
    assert len(re.findall('background:#b00020" title="b">c<', picture.labels)) == 1, "b was taken for c"
    assert picture.labels.count("<tr>") == 4
    assert picture.labels.count("<td") == 31


def test_class_names_are_no_markup(digits):
    strange = type(digits)(digits.source, digits.train, digits.test, ("<b>", "&", '"'))
    picture = Picture(strange)
    picture.take(Evaluated(1, 7, 0.5, 0.1, 31, 31, Mistakes([], []), 0.1))
    assert "&lt;b&gt;" in picture.labels
    assert "<b>" not in picture.labels


def test_class_names_are_shown_without_control_characters(digits):
    picture = Picture(type(digits)(digits.source, digits.train, digits.test, ("\x1b[2J", "\u202e1", "\x07")))
    picture.take(Evaluated(1, 7, 0.5, 0.1, 31, 31, Mistakes([], []), 0.1))
    assert picture.labels.isprintable()
    assert r">\u202e1<" in picture.labels


def test_what_changed_is_counted_apart(digits):
    picture = Picture(digits)
    picture.take(TrainLosses(1, 1, np.ones(3), "", 0.1))
    assert picture.version == {"train": 1, "test": 0}
    picture.take(Evaluated(1, 3, 0.5, 0.1, 31, 31, Mistakes([], []), 0.1))
    assert picture.version == {"train": 1, "test": 1}


def test_without_the_data_there_are_no_images_and_no_labels():
    picture = Picture(None)
    picture.take(Evaluated(1, 3, 0.5, 0.1, 31, 31, Mistakes([], []), 0.1))
    assert picture.images is None
    assert picture.labels is None


def test_names_are_safe_in_addresses_and_tell_runs_apart(tmp_path):
    assert re.fullmatch(r"ä_b_c_[0-9a-f]{4}", environment_name(tmp_path / "my runs" / "ä/b c?").replace("__", "_"))
    assert environment_name(tmp_path / "exp1/runs/jax") != environment_name(tmp_path / "exp2/runs/jax")
    assert comparison_name(Config(seed=3), DIGEST) == "compare_leaky_mnist_seed3"
    other = Config(dataset="idx:/data/k mnist", seed=3)
    assert comparison_name(other, DIGEST) == "compare_leaky_idx_data_k_mnist_0a1b2c3d_seed3"
    assert trace_name("jax", Config(seed=4)) == "jax"
    assert trace_name("torch", Config(learning_rate=0.5, momentum=0.9)) == "torch, learning_rate 0.5, momentum 0.9"
    assert trace_name("jax", Config(initial_weights=Path("\x1b[2J\udcff"))) == r"jax, initial_weights \x1b[2J\udcff"


@pytest.mark.parametrize("part", ["a", "é", "日", "a日"])
def test_a_long_name_is_shortened_to_what_a_file_can_have(part, tmp_path):
    """Up to 245 bytes of a run folder's last two parts stay as they are, five of the digits behind them included."""
    for name in (environment_name, lambda folder: comparison_name(Config(dataset=f"idx:{folder}"), DIGEST)):
        long = [name(tmp_path / (250 // len(part) * part) / (50 * part + end)) for end in "xy"]
        assert long[0] != long[1]
        assert all(240 < len(one.encode()) <= LONGEST_NAME for one in long)
        assert all(re.fullmatch(r"[\w.-]+_[0-9a-f]{8}", one) for one in long)
    longest = tmp_path / ("a" * 200) / ("b" * 44)
    assert environment_name(longest).startswith(f"{'a' * 200}_{'b' * 44}_")
    assert len(environment_name(longest)) == LONGEST_NAME


@pytest.mark.parametrize("folder", [".runs/a", "..runs/.a", "runs/a.json", "a.json.d/b", "\udcff/a"])
def test_a_name_is_one_that_every_server_keeps(folder, tmp_path):
    name = environment_name(tmp_path / folder)
    assert re.fullmatch(r"[\w-][\w.-]*", name)
    assert ".json" not in name


def test_means_of_losses_at_the_end_of_float64_are_gaps():
    curve = Curve()
    curve.add(1, [1e308] * 4 + [1.0, 3.0, 1.0, 3.0])
    np.testing.assert_array_equal(curve.points(2)[1], [np.nan, 2.0])


def test_a_run_is_drawn_beside_others_less_often_than_by_itself(digits, tmp_path, monkeypatch):
    drawn, now = [], [0.0]
    methods = ("update", "compare", "complete")
    drawing = SimpleNamespace(**{name: lambda _, name=name: drawn.append(name) for name in methods})
    no_thread = SimpleNamespace(Thread=lambda **_: SimpleNamespace(start=lambda: None), Event=threading.Event)
    monkeypatch.setattr(visdom, "threading", no_thread)
    monkeypatch.setattr(visdom, "time", SimpleNamespace(monotonic=lambda: now[0]))
    sink = visdom.Visdom(VisdomServer(), Config(), digits, tmp_path, "jax", quiet=True)
    for second in range(0, 36, 2):
        now[0] = float(second)
        assert sink._attempt(drawing, last=False) is drawing
    assert drawn.count("update") == 18
    assert drawn.count("compare") == 2, "after 12 and after 24 seconds"
    sink._attempt(drawing, last=True)
    assert drawn[-1] == "complete"


@pytest.mark.parametrize("transposed", [False, True])
def test_images_are_shown_as_people_read_them_ten_to_a_row(transposed, digits):
    """31 images of 6x5 pixels, or of 5x6, with a gap of two."""
    shown = Picture(dataclasses.replace(digits, transposed=transposed)).images
    height, width = (5, 6) if transposed else (6, 5)
    assert shown.shape == (4 * (height + 2), 10 * (width + 2))
    for number, image in enumerate(digits.test.images):
        top, left = number // 10 * (height + 2), number % 10 * (width + 2)
        tile = shown[top : top + height, left : left + width]
        np.testing.assert_array_equal(tile, image.T if transposed else image)
