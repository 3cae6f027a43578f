"""The page to draw digits on, in a real browser, and its server."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from browser import CHROMIUM, chromium
from helpers import ROOT
from pictures import NETWORKS, png
from tolerances import PERCENTAGES, PROBABILITIES

from mlp_workload.interface import TITLES
from mlp_workload.predict import command
from mlp_workload.predict.digit import is_already
from mlp_workload.predict.draw_server import Predictor, Side, _Handler, _Server


@pytest.fixture(scope="module")
def port(trained):
    """Of a page by the command, which Ctrl-C ends with all that it started."""
    command = [sys.executable, "-m", "reference_torch.predict", str(trained.folder), "--draw", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        *sides, ready = [process.stdout.readline() for _ in range(3)]
        assert [re.sub(r" [\d.]+:", ":", line) for line in sides] == ["JAX: ready\n", "PyTorch: ready\n"]
        yield int(re.fullmatch(r"http://127\.0\.0\.1:(\d+) has the page; Ctrl-C stops it\n", ready)[1])
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        # Its end is the end of the pipes, which the frameworks' processes have too.
        assert process.communicate(timeout=20) == ("stopped\n", "")
        assert process.returncode == 0
    finally:
        process.kill()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with chromium() as browser:
        yield browser


@contextlib.contextmanager
def opened(browser, port, **options):
    """The page, which must stumble over nothing and ask nobody else."""
    page, trouble = browser.new_page(**options), []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text))
    page.on(
        "request", lambda request: request.url.startswith(f"http://127.0.0.1:{port}/") or trouble.append(request.url)
    )
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("article")
    yield page
    page.close()
    assert trouble == []


def draw(page, *points):
    """By the mouse, along points on the paper's 280x280."""
    box = page.locator("#paper").bounding_box()
    at = [(box["x"] + x / 280 * box["width"], box["y"] + y / 280 * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()


def guesses(page, digit):
    """What both frameworks say when they have come to this digit."""
    page.wait_for_function(
        "digit => [...document.querySelectorAll('.guess')].every((guess) => guess.textContent.startsWith(digit))",
        arg=digit,
    )
    return page.locator("article").all_inner_texts()


CIRCLE = [(140 + 55 * np.sin(a), 140 - 85 * np.cos(a)) for a in np.linspace(0, 2 * np.pi, 24)]


def test_a_drawn_one_and_a_drawn_zero_are_told_by_both_frameworks(port, browser):
    with opened(browser, port) as page:
        draw(page, (150, 40), (140, 240))
        assert [re.match(r"(JAX|PyTorch) [\d.]+\n+1 ", text)[1] for text in guesses(page, "1 ")] == ["JAX", "PyTorch"]
        page.get_by_role("button", name="Clear").click()
        page.wait_for_function(
            "() => document.getElementById('status').textContent === 'no digit: the picture is blank'"
        )
        assert page.locator(".best").count() == 0
        draw(page, *CIRCLE)
        guesses(page, "0 ")
        assert page.locator(".best th").all_inner_texts() == ["0", "0"]
        shares = page.locator("article:first-child td:last-child").all_inner_texts()
        assert sum(float(share.removesuffix(" %")) for share in shares) == pytest.approx(100, abs=PERCENTAGES)
        grids = page.locator(".layer").evaluate_all("all => all.map((one) => [one.width, one.height, one.ariaLabel])")
        assert [grid[:2] for grid in grids] == [[20, 10]] * 4
        assert grids[:2] == grids[2:], "as many units above 0"
        assert float(page.locator("#difference").inner_text().rpartition(" ")[2]) < PROBABILITIES.absolute
        seen = page.locator("#seen").evaluate("(c) => [...c.getContext('2d').getImageData(0, 0, 28, 28).data]")
        assert is_already(np.array(seen, float).reshape(28, 28, 4)[..., 0])


@pytest.mark.long("repeats a page in a browser")
def test_the_page_by_touch_and_by_keys_on_a_small_screen(port, browser):
    with opened(browser, port, viewport={"width": 400, "height": 800}, has_touch=True, color_scheme="dark") as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.locator("#paper").focus()
        for key in ["ArrowUp"] * 10 + [" "] + ["ArrowDown"] * 22:
            page.keyboard.press(key)
        assert page.locator("#pen.down").is_visible()
        guesses(page, "1 ")
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.getElementById('status').textContent.startsWith('no digit')")
        page.locator("#paper").tap()
        page.wait_for_selector(".best")


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def test_the_server_answers_its_own_page_alone(port, digits):
    image = {"Content_Type": "image/png"}
    for method, path in (("GET", "/"), ("GET", "/about"), ("POST", "/drawing")):
        for foreign in ({"Host": f"example.org:{port}"}, {"Host": "127.0.0.1"}, {"Origin": "http://example.org"},
                        {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):  # fmt: skip
            assert ask(port, method, path, png(digits[0]), **image, **foreign)[0] == 403, (path, foreign)
    assert ask(port, "GET", "/../server.py")[0] == 404
    assert ask(port, "POST", "/drawing", png(digits[0]), Content_Type="text/plain")[0] == 404
    assert ask(port, "POST", "/drawing", b"", **image, Content_Length="9" * 5000)[0] == 413
    assert ask(port, "POST", "/drawing", b"", **image, Content_Length=str(2**20 + 1))[0] == 413
    status, content = ask(port, "POST", "/drawing", b"no image", **image)
    assert (status, json.loads(content)["message"]) == (200, "neither PNG nor JPEG")
    status, content = ask(port, "POST", "/drawing", png(digits[0]), **image, Origin=f"http://localhost:{port}")
    assert status == 200
    np.testing.assert_array_equal(json.loads(content)["seen"], digits[0])


def test_a_port_in_use_is_said(port, trained, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["predict", str(trained.folder), "--draw", "--port", str(port)])
    with pytest.raises(SystemExit, match="2"):
        command.run_predict("predict", NETWORKS["torch"])
    assert re.fullmatch(
        f"predict: error: --port {port}: cannot listen at 127.0.0.1 .*in use.*\n", capsys.readouterr().err
    )


@pytest.mark.long("starts a page and both frameworks")
def test_where_a_framework_is_missing_the_page_says_so_and_shows_the_other(trained, browser, tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text("raise ModuleNotFoundError(\"No module named 'jax'\", name='jax')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(Side(side, trained.folder)) for side in TITLES]
        assert [bool(side.answer()) for side in sides] == [False, True]
        server = stack.enter_context(_Server(("127.0.0.1", 0), _Handler))
        server.predictor = Predictor(trained, sides)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        with opened(browser, server.server_port) as page:
            draw(page, (150, 40), (140, 240))
            jax, torch = guesses(page, "1 ")
            assert "jax is not installed: make setup" in jax
            assert re.match(r"PyTorch [\d.]+\n+1 ", torch)
            assert page.locator("#difference").inner_text() == ""
        sides[1]._process.kill()
        while sides[1].answer():  # to what the page still asked
            pass
        assert "ended with status -9" in sides[1].failure
