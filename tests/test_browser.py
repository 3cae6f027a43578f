"""What people see: the dashboard's page and the report, in a real browser without any other network."""

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
from browser import CHROMIUM, chromium
from conftest import ROOT
from PIL import Image
from test_dashboard import start, until_ready
from tolerances import DRAWN
from visdom_process import free_port
from warm import python

from mlp_workload.recorded_run import RecordedRun
from mlp_workload.visdom.drawing import environment_name
from mlp_workload.visdom.picture import SHOWN

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, for what Visdom's page is made of"),
]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A run of each framework with a dashboard running, and one more, interrupted, replayed into it."""
    folder = tmp_path_factory.mktemp("shown")
    port = free_port()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VISDOM_PORT": str(port)}

    def run(*arguments):
        command = [python(), "-m", *arguments]
        process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
        assert (process.returncode, process.stderr) == (0, "")

    with start(folder, "--port", str(port)) as dashboard:
        until_ready(dashboard)
        run("jax_mlp.train", "--epochs", "3", "--run-dir", "runs/jax")
        run("reference_torch.train", "--epochs", "3", "--run-dir", "runs/torch")
        shutil.copytree(folder / "runs/jax", folder / "runs/interrupted")
        (folder / "runs/interrupted/summary.json").unlink()
        events = (folder / "runs/jax/events.jsonl").read_bytes()
        (folder / "runs/interrupted/events.jsonl").write_bytes(events[: events.rindex(b'"evaluated"') + 50])
        run("mlp_workload.dashboard", "--replay", "runs/interrupted")
        yield folder, f"http://localhost:{port}"
        dashboard.send_signal(signal.SIGINT)
        dashboard.communicate(timeout=20)


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


@pytest.mark.parametrize(("name", "epochs"), [("jax", 3), ("torch", 3), ("interrupted", 2)])
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


def test_the_comparison_shows_both_frameworks_in_the_same_windows(browser, shown):
    _, server = shown
    with opened(browser, f"{server}/env/compare_leaky_mnist_seed0") as page:
        page.wait_for_selector(".js-plotly-plot .lines")
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 3")
        # What was replayed last is the trace of its name.
        for title, jax, torch in (("train loss", 450, 450), ("test loss", 2, 3), ("test accuracy", 2, 3)):
            found = {name: len(steps) for name, steps, _ in curves(page, title)}
            assert found == {"jax, epochs 3": jax, "torch, epochs 3": torch}
        assert page.trouble == []


@pytest.fixture(scope="module")
def report(shown, tmp_path_factory):
    folder, _ = shown
    output = tmp_path_factory.mktemp("report") / "report.html"
    parity = output.with_name("parity.json")
    for arguments in (
        ["mlp_compare.parity", "--steps", "2", "--dtype", "float64", "--json", str(parity)],
        ["mlp_compare.report", "runs/jax", "runs/torch", "runs/interrupted", "--results", str(parity), "--output",
         str(output)],
    ):  # fmt: skip
        process = subprocess.run(
            [python(), "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=240,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (process.returncode, process.stderr) == (0, "")
    return output


def test_the_report_names_no_other_host(report):
    text = report.read_text()
    without_images = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert not re.findall(r"//[\w.-]+", without_images)
    assert not re.findall(r"\bwww\.", without_images)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
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
        assert np.sum(rows, axis=1).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        first = page.query_selector(".mistakes li")
        example, predicted = (sequence[0] for sequence in vars(recorded.evaluations[-1].mistakes).values())
        label = recorded.dataset.test.labels[example]
        assert first.inner_text().strip() == f"{label} → {predicted}"
        assert first.query_selector("img").get_attribute("alt") == f"test image {example}"


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


def test_a_page_of_one_run_needs_no_comparison(shown, tmp_path):
    folder, _ = shown
    command = [python(), "-m", "mlp_compare.report", "runs/torch", "--output", str(tmp_path / "one.html")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=environment)
    assert (process.returncode, process.stderr) == (0, "")
    text = (tmp_path / "one.html").read_text()
    assert "How the settings differ" not in text
    assert "<title>torch</title>" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one run folder"),
        (["nowhere"], "nowhere: no such run folder"),
        (["runs/jax", "--output", "taken.html"], "--output taken.html exists; name a new file"),
        (["runs/jax", "--results", "taken.html"], "taken.html is not JSON"),
        (["runs/jax", "--results", "cells.json"], "--results: not what the commands write by --json"),
        (["runs/jax", "--results", "runs/jax/config.json"], "is not what mlp_compare.parity, .accuracy or .bench"),
        (["runs/jax", "--results", "nothing.json"], "nothing.json: no such file"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, shown):
    folder, _ = shown
    (folder / "taken.html").write_text("mine")
    (folder / "cells.json").write_text('{"cells": []}')
    command = [python(), "-m", "mlp_compare.report", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=environment)
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert message in line
    assert (folder / "taken.html").read_text() == "mine"
    assert not (folder / "report.html").exists()
    assert json.loads((folder / "runs/jax/config.json").read_text())
