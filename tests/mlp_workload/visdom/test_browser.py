"""What people see: the dashboard's page and the report, in a real browser without any other network."""

import base64
import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from browser import CHROMIUM, chromium
from dashboard_process import dashboard
from helpers import ROOT, TRAINERS, write_idx_folder
from PIL import Image
from tolerances import DRAWN
from warm import python

import mlp_compare.report.__main__ as report_command
from mlp_compare.parity import bound_table
from mlp_compare.parity import output as parity_output
from mlp_compare.parity.result import Report, Worst
from mlp_compare.report.page import render
from mlp_workload.config import PRESETS, Config
from mlp_workload.data import Dataset, Examples
from mlp_workload.events import RunStarted
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.sinks.json_lines import JsonLines
from mlp_workload.visdom.picture import SHOWN
from mlp_workload.visdom.windows import comparison_name, environment_name
from twincheck.comparison import Difference

chrome = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, for what Visdom's page is made of")
repeated = pytest.mark.long("repeats a page in a browser")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shown(mnist, tmp_path_factory):
    """A run of each framework with a dashboard running, and one more, interrupted, replayed into it."""
    folder = tmp_path_factory.mktemp("shown")
    (folder / "data").mkdir()
    parts = (Examples(part.images[:1000], part.labels[:1000]) for part in (mnist.train, mnist.test))
    dataset = write_idx_folder(folder / "data", Dataset("part of MNIST", *parts, mnist.class_names))
    with dashboard(folder) as server:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "VISDOM_PORT": str(server.port)}

        def run(*arguments):
            command = [python(), "-m", *arguments]
            process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
            assert (process.returncode, process.stderr) == (0, "")

        flags = ["--dataset", dataset, "--batch-size", "50", "--learning-rate", "0.1", "--last-activation", "none"]
        for name, module in TRAINERS.items():
            run(module, *flags, "--epochs", "3", "--run-dir", f"runs/{name}")
        shutil.copytree(folder / "runs/jax", folder / "runs/interrupted")
        (folder / "runs/interrupted/summary.json").unlink()
        events = (folder / "runs/jax/events.jsonl").read_bytes()
        (folder / "runs/interrupted/events.jsonl").write_bytes(events[: events.rindex(b'"evaluated"') + 50])
        run("mlp_workload.dashboard", "--replay", "runs/interrupted")
        yield folder, server.address


@contextlib.contextmanager
def opened(browser, address, **options):
    """A page, with all that it asked of other hosts or stumbled over in `page.trouble`."""
    page = browser.new_page(**options)
    page.trouble = []
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("request", lambda request: _ours(request.url, address) or page.trouble.append(request.url))
    page.goto(address)
    yield page
    page.close()


def _ours(url, address):
    return url.startswith(("data:", "blob:", "/".join(address.split("/")[:3])))


def curves(page, title):
    """The points of each curve of the window with that title, as the page's Plotly has them."""
    return page.evaluate(
        """title => {
            const plots = [...document.querySelectorAll('.js-plotly-plot')];
            const plot = plots.find(one => one.layout.title.text === title || one.layout.title === title);
            return plot.data.map(trace => [trace.name, trace.x, trace.y]);
        }""",
        title,
    )


@chrome
@needs_npm
@pytest.mark.parametrize(
    ("name", "epochs"),
    [pytest.param("jax", 3, marks=repeated), pytest.param("torch", 3, marks=repeated), ("interrupted", 2)],
)
def test_the_page_shows_the_four_windows(name, epochs, browser, shown):
    folder, server = shown
    recorded = RecordedRun.load(folder / "runs" / name)
    with opened(
        browser, f"{server}/env/{environment_name(folder / 'runs' / name)}", viewport={"width": 1280, "height": 800}
    ) as page:
        page.wait_for_selector(".window table")
        page.wait_for_selector(".js-plotly-plot .lines")
        titles = [bar.inner_text().split("\n")[-1] for bar in page.query_selector_all(".window .bar")]
        assert sorted(titles) == sorted(["train loss", "test loss&acc.", "test images", "predicted labels"])
        ((_, steps, losses),) = curves(page, "train loss")
        assert steps == list(range(1, len(recorded.train_losses) + 1))
        DRAWN.assert_close(losses, recorded.train_losses)
        assert [(name, len(steps)) for name, steps, _ in curves(page, "test loss&acc.")] == [
            ("loss", epochs), ("acc.", epochs)
        ]  # fmt: skip
        picture = page.wait_for_selector(".window img")
        assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [300, 300]
        assert picture.bounding_box()["width"] >= 280
        cells = [cell.inner_text() for cell in page.query_selector_all(".window td")]
        assert cells == _labels(recorded)
        assert page.trouble == []
        digits = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"))
    assert 0.1 < (digits > 128).mean() < 0.3, "white strokes on black"


def _labels(recorded):
    evaluated, dataset = recorded.evaluations[-1], recorded.dataset
    return [str(label) for label in evaluated.mistakes.predicted(dataset.test.labels, dataset.classes)[:SHOWN]]


@chrome
@needs_npm
def test_the_comparison_shows_both_frameworks_in_the_same_windows(browser, shown):
    folder, server = shown
    recorded = RecordedRun.load(folder / "runs/jax")
    comparison = comparison_name(recorded.config, recorded.fact("dataset_digest"))
    settings = "epochs 3, batch_size 50, learning_rate 0.1, last_activation none"
    with opened(browser, f"{server}/env/{comparison}") as page:
        page.wait_for_selector(".js-plotly-plot .lines")
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 3")
        # What was replayed last is the trace of its name.
        for title, jax, torch in (("train loss", 60, 60), ("test loss", 2, 3), ("test accuracy", 2, 3)):
            found = {name: len(steps) for name, steps, _ in curves(page, title)}
            assert found == {f"jax, {settings}": jax, f"torch, {settings}": torch}
        assert page.trouble == []


def write_report(folder, output, *arguments):
    process = subprocess.run(
        [python(), "-m", "mlp_compare.report", *arguments, "--output", str(output)], cwd=folder, capture_output=True,
        text=True, timeout=240, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    return output


@pytest.fixture(scope="module")
def report(shown, tmp_path_factory):
    folder, _ = shown
    output = tmp_path_factory.mktemp("report") / "report.html"
    parity, facts = output.with_name("parity.json"), {side: {"environment": {}, "device": "cpu"} for side in TRAINERS}
    found = Report(steps_compared=2)
    found.worst["parameters"] = Worst(2, Difference("layers.0.bias", (3,), 0.5, 0.5, 0.0, 0.0, 0.0, 1e-13))
    config = dataclasses.replace(PRESETS["leaky"], dtype="float64")
    parity.write_text(json.dumps(parity_output.as_json(config, 2, found, facts, bound_table.table("float64", 784))))
    runs = [f"runs/{name}" for name in ("jax", "torch", "interrupted")]
    return write_report(folder, output, *runs, "--results", str(parity))


@pytest.mark.long("a parity check in two processes")
def test_the_report_shows_a_parity_check(shown, run, tmp_path):
    folder, _ = shown
    parity = tmp_path / "parity.json"
    process = run("mlp_compare.parity", "--dataset", f"idx:{folder}/data", "--steps", "2", "--json", str(parity))
    assert (process.returncode, process.stderr) == (0, "")
    text = write_report(folder, tmp_path / "report.html", "runs/jax", "--results", str(parity)).read_text()
    assert "Parity: leaky, float32, seed 0" in text


def test_the_report_names_no_other_host(report):
    text = report.read_text()
    without_images = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert not re.findall(r"//[\w.-]+", without_images)
    assert not re.findall(r"\bwww\.", without_images)


@chrome
@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 1200),
        ("dark", 360),
        *(pytest.param(*other, marks=repeated) for other in (("dark", 1200), ("light", 360))),
    ],
)
def test_the_report_shows_everything(scheme, width, browser, report, shown):
    folder, _ = shown
    with opened(browser, report.as_uri(), viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        assert page.trouble == []
        assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out to the side"
        text = page.inner_text("body")
        for heading in ("3 runs compared", "How the settings differ", "Curves", "Confusion", "Mistakes", "First layer",
                        "Time", "Environment", "Parity: leaky, float64, seed 0"):  # fmt: skip
            assert heading in text
        assert "All runs saw the examples in the same order." in text
        assert "not finished: 2 of 3 epochs" in text
        for curve in page.query_selector_all(".curves svg"):
            assert curve.bounding_box()["width"] > 250
            assert "rgb" in curve.evaluate("svg => getComputedStyle(svg.querySelector('text')).fill")
        assert len(page.query_selector_all(".curves svg")) == 3
        broken = "[...document.images].filter(image => !image.complete || image.naturalWidth === 0).length"
        assert page.evaluate(broken) == 0
        back, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        dark = [sum(map(int, re.findall(r"\d+", colour)[:3])) < 384 for colour in (back, ink)]
        assert dark == [scheme == "dark", scheme == "light"]
        ink_of_curves = page.evaluate("getComputedStyle(document.querySelector('.curves svg text')).fill")
        assert ink_of_curves == ink

        recorded = RecordedRun.load(folder / "runs/jax")
        rows = page.evaluate(
            """[...document.querySelector('.confusion').rows].slice(1).map(
                row => [...row.cells].slice(1).map(cell => +cell.innerText)
            )"""
        )
        assert np.trace(rows) == recorded.evaluations[-1].test_correct
        assert np.sum(rows, axis=1).tolist() == np.bincount(recorded.dataset.test.labels).tolist()
        first = page.query_selector(".mistakes li")
        example, predicted = (sequence[0] for sequence in vars(recorded.evaluations[-1].mistakes).values())
        label = recorded.dataset.test.labels[example]
        assert first.inner_text().strip() == f"{label} → {predicted}"
        assert first.query_selector("img").get_attribute("alt") == f"test image {example}"


@chrome
def test_the_report_in_print_is_dark_on_white(browser, report):
    with opened(browser, report.as_uri(), color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        back, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        assert (back, ink) == ("rgb(255, 255, 255)", "rgb(28, 30, 33)")
        assert len(page.pdf()) > 50_000


def test_a_picture_in_the_report_is_the_test_image(report, mnist):
    text = report.read_text()
    example, source = re.search(r'src="data:image/png;base64,([\w+/=]+)" alt="test image (\d+)"', text).group(2, 1)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    np.testing.assert_array_equal(picture, mnist.test.images[int(example)])


def test_a_page_of_one_run_needs_no_comparison(shown):
    folder, _ = shown
    text = render([RecordedRun.load(folder / "runs/torch")], [])
    assert "How the settings differ" not in text
    assert "<title>torch</title>" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["nowhere"], "nowhere: no such run folder"),
        (["runs/jax", "--output", "taken.html"], "--output taken.html exists; name a new file"),
        (["runs/jax", "--results", "taken.html"], "taken.html is not JSON"),
        (["runs/jax", "--results", "cells.json"], "--results: not what the commands write by --json"),
        (["runs/jax", "--results", "runs/jax/config.json"], "is not what mlp_compare.parity, .accuracy or .bench"),
        (["runs/jax", "--results", "nothing.json"], "nothing.json: no such file"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs/jax").mkdir(parents=True)
    (tmp_path / "runs/jax/config.json").write_text(Config().to_json())
    with contextlib.closing(JsonLines(tmp_path / "runs/jax/events.jsonl")) as events:
        facts = {"framework": "jax", "framework_version": "1", "device": "cpu", "dataset_digest": "0"}
        events.emit(RunStarted(Config(), facts | {"environment": {}}))
    (tmp_path / "taken.html").write_text("mine")
    (tmp_path / "cells.json").write_text('{"cells": []}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report", *arguments])
    with pytest.raises(SystemExit, match="2"):
        report_command.main()
    output, error = capsys.readouterr()
    assert output == ""
    (line,) = error.splitlines()
    assert message in line
    assert (tmp_path / "taken.html").read_text() == "mine"
    assert not (tmp_path / "report.html").exists()
