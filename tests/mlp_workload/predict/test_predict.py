"""Pictures of digits, from files and drawn on the page: what the network sees of them, and what it takes them for."""

import contextlib
import dataclasses
import http.client
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from browser import CHROMIUM, chromium
from helpers import ROOT, make_digits, without_record, write_idx_folder, write_run
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from tolerances import FORWARD_BACKWARD, GREY_LEVELS, PERCENTAGES, PROBABILITIES

import jax_mlp.network
import jax_mlp.train
import reference_torch.network
import reference_torch.train
from mlp_workload.config import Config
from mlp_workload.data.framing import ImageFormat
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.interface import TITLES
from mlp_workload.predict import command, image_file
from mlp_workload.predict.digit import SHAPE, find_digit, is_already
from mlp_workload.predict.draw_server import Predictor, _Handler, _Server
from mlp_workload.predict.draw_side import Side
from mlp_workload.predict.trained import Trained
from mlp_workload.run import recorded
from mlp_workload.run.output_options import OutputOptions

NETWORKS = {"jax": jax_mlp.network.Network, "torch": reference_torch.network.Network}
DIGITS = 100
AS_MANY = 97
"""Of these must be taken for the same after a disturbance."""


@pytest.fixture(scope="module")
def digits(mnist):
    """(100, 28, 28), ten test images of each class."""
    labels = mnist.test.labels
    return mnist.test.images[np.concatenate([np.flatnonzero(labels == k)[:10] for k in range(10)])]


@pytest.fixture(scope="module")
def networks(trained):
    return {name: network(trained) for name, network in NETWORKS.items()}


def png(picture, kind="PNG", **options):
    """The file's bytes."""
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def seen(content):
    return find_digit(image_file.decode(content, "picture"))


def alpha(digit, rng):
    """Blue ink on nothing."""
    ink = Image.new("RGBA", (280, 280), (20, 30, 90, 0))
    ink.putalpha(Image.fromarray(digit).resize((280, 280), Image.Resampling.BICUBIC))
    return png(ink)


def cut(digit):
    rows, columns = (np.flatnonzero(digit.any(axis=axis)) for axis in (1, 0))
    return digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def shifted(digit, rng):
    """Anywhere in 28x28."""
    ink, field = cut(digit), np.zeros((28, 28), np.uint8)
    top, left = (rng.integers(0, 28 - side + 1) for side in ink.shape)
    field[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return png(field)


def noisy(digit, rng):
    """On grey, with noise, in a picture of about twice the size."""
    field = rng.normal(110, 12, (60, 50))
    top, left = rng.integers(0, 32), rng.integers(0, 22)
    field[top : top + 28, left : left + 28] += digit * (130 / 255)
    return png(field.clip(0, 255).astype(np.uint8))


def photographed(digit, rng):
    """Dark on paper that is lit from one side, in colour, as a JPEG."""
    height, width = 240, 320
    y, x = np.mgrid[:height, :width]
    ink, (top, left) = np.zeros((height, width)), (rng.integers(10, 90), rng.integers(10, 170))
    ink[top : top + 140, left : left + 140] = np.asarray(Image.fromarray(digit).resize((140, 140))) / 255
    light = (210 - 70 * x / width - 40 * (y / height) ** 2) * (1 - 0.7 * ink) + rng.normal(0, 6, ink.shape)
    return png((light[..., None] * [1, 0.97, 0.9]).clip(0, 255).astype(np.uint8), "JPEG", quality=80)


@pytest.mark.parametrize("disturbed", [alpha, shifted, noisy, photographed], ids=lambda f: f.__name__)
def test_a_disturbed_digit_is_taken_for_the_same(disturbed, digits, networks, record_property):
    rng = np.random.default_rng(0)
    images = np.stack([seen(disturbed(digit, rng)) for digit in digits])
    for name, network in networks.items():
        of_array, of_picture = (network.predict(x).probabilities.argmax(axis=1) for x in (digits, images))
        same = int((of_array == of_picture).sum())
        record_property(f"{name} same of {DIGITS}", same)
        assert same >= AS_MANY, (name, np.flatnonzero(of_array != of_picture))


def test_an_image_as_mnists_is_taken_pixel_for_pixel_and_an_inverted_one_is_inverted(digits):
    for digit in digits:
        np.testing.assert_array_equal(seen(png(digit)), digit)
        np.testing.assert_array_equal(seen(png(255 - digit)), digit)
        np.testing.assert_array_equal(seen(png(Image.fromarray(digit).convert("RGBA"))), digit)


def test_all_of_mnist_is_already_as_mnist_is(mnist):
    images = mnist.test.images[::7].astype(float)
    assert all(map(is_already, images))
    assert not any(is_already(np.roll(image, 2, axis=0)) for image in images)
    assert not any(is_already(255 - image) for image in images)


def test_what_was_seen_is_seen_again_the_same(digits):
    rng = np.random.default_rng(1)
    for digit in digits[::9]:
        once = seen(photographed(digit, rng))
        np.testing.assert_array_equal(seen(png(once)), once)


def test_both_networks_agree_and_have_their_activations(digits, networks):
    jax, torch = (networks[name].predict(digits) for name in NETWORKS)
    assert jax.probabilities.dtype == torch.probabilities.dtype == np.float32
    assert [layer.shape for layer in jax.activations] == [(DIGITS, 200), (DIGITS, 200)]
    FORWARD_BACKWARD["float32"].assert_close(jax.probabilities, torch.probabilities)
    for one, other in zip(jax.activations, torch.activations, strict=True):
        FORWARD_BACKWARD["float32"].assert_close(one, other)
    PROBABILITIES.assert_close(jax.probabilities.sum(axis=1), np.ones(DIGITS))


@pytest.mark.parametrize("preset", ["relu", "leaky"])
def test_the_probabilities_are_those_of_the_runs_own_normalisation_and_dtype(preset, tmp_path, digits):
    """Against NumPy, in float64; the settings of a run on eight GPUs are no hindrance."""
    config = Config(preset=preset, dtype="float64", hidden=(6,), pixel_mean=0.3, pixel_std=2.5, device="gpu",
                    activation="leaky_relu", last_activation="none", devices=8)  # fmt: skip
    parameters = initial_parameters("torch_linear", (784, 6, 10), seed=3)
    trained = Trained(tmp_path, config, parameters)
    x = (digits.reshape(DIGITS, -1) / 255 - 0.3) / 2.5
    hidden = x @ parameters["layers.0.weight"].T + parameters["layers.0.bias"]
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    logits = hidden @ parameters["layers.1.weight"].T + parameters["layers.1.bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for network in NETWORKS.values():
        prediction = network(trained).predict(digits)
        FORWARD_BACKWARD["float64"].assert_close(prediction.probabilities, expected)
        FORWARD_BACKWARD["float64"].assert_close(prediction.activations[0], hidden)


def plain(digit):
    """Dark on white, 100x90."""
    field = np.full((100, 90), 255, np.uint8)
    field[30:58, 40:68] -= digit
    return field


def deep(picture):
    return Image.fromarray(np.minimum(picture.astype(int) * 257 + 100, 2**16 - 1).astype(np.uint16))


def turned(picture, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    return png(Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90), kind, exif=exif)


def animated(picture):
    other = Image.new("L", picture.shape[::-1], 40)
    return png(Image.fromarray(picture), save_all=True, append_images=[other])


INK = Image.new("L", (90, 100))
FORMS = {
    "16 bits": (lambda x: png(deep(x)), 0),
    "16 bits, EXIF": (lambda x: turned(x.astype(np.uint16) * 257, "PNG"), 0),
    "palette": (lambda x: png(Image.fromarray(x).convert("P", palette=Image.Palette.ADAPTIVE)), 0),
    "grey with alpha": (lambda x: png(Image.fromarray(x).convert("LA")), 0),
    "transparent paper": (lambda x: png(Image.merge("LA", [INK, Image.fromarray(255 - x)])), GREY_LEVELS["PNG"]),
    "a transparent margin": (lambda x: png(framed(x)), 0),
    "animated": (animated, 0),
    "EXIF, PNG": (lambda x: turned(x, "PNG"), 0),
    "EXIF, JPEG": (lambda x: turned(x, "JPEG"), GREY_LEVELS["JPEG"]),
    "CMYK, JPEG": (lambda x: png(Image.fromarray(x).convert("CMYK"), "JPEG", quality=95), GREY_LEVELS["JPEG"]),
}  # fmt: skip
"""How a picture is written, and how far, in the mean, its grey levels may be from it then."""


def framed(picture):
    field = Image.new("RGBA", (195, 170))
    field.paste(Image.fromarray(picture).convert("RGBA"), (100, 60))
    return field


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_picture_is_read(form, digits):
    write, allowed = FORMS[form]
    picture = plain(digits[25]).astype(float)
    found = image_file.decode(write(plain(digits[25])), "picture")
    assert found.shape == picture.shape
    assert np.abs(found - picture).mean() <= allowed


def test_light_ink_on_nothing_is_on_black(digits):
    ink = Image.merge("LA", [Image.new("L", (28, 28), 255), Image.fromarray(digits[3])])
    np.testing.assert_array_equal(seen(png(ink)), digits[3])


def bomb(width, height):
    """A PNG of so many pixels in a kilobyte or two."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither PNG nor JPEG"),
        (b"GIF89a" + bytes(50), "neither PNG nor JPEG"),
        (png(np.zeros((5, 5), np.uint8), "GIF"), "neither PNG nor JPEG"),
        (png(np.zeros((50, 50), np.uint8))[:60], "a damaged image"),
        (png(np.zeros((500, 500), np.uint8), "JPEG")[:-100], "a damaged image"),
        (bomb(9000, 9000), "9000x9000, more than 64 million pixels"),
        (bomb(10_000, 10_000), "more than 64 million pixels"),
        (bomb(60_000, 60_000), "more than 64 million pixels"),
        (png(np.full((40, 40), 255, np.uint8)), "no digit"),
        (png(np.full((1, 1), 0, np.uint8)), "no digit"),
        (png(np.full((40, 4000), 255, np.uint8)), "no digit"),
        (png(np.full((4000, 40), 255, np.uint8)), "no digit"),
        (png(np.random.default_rng(0).normal(120, 15, (200, 200)).clip(0, 255).astype(np.uint8)), "no digit"),
        (png(np.linspace(60, 220, 300 * 200).reshape(200, 300).astype(np.uint8)), "no digit"),
        (png(Image.new("RGBA", (30, 30))), "no digit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_picture_of_a_digit_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        seen(content)


@given(content=st.binary(max_size=300), start=st.integers(0, 400), kind=st.sampled_from(["PNG", "JPEG"]))
def test_damaged_files_end_in_one_error_or_an_image(content, start, kind):
    good = png(plain(np.eye(28, dtype=np.uint8) * 255), kind)
    start = min(start, len(good))
    try:
        picture = image_file.decode(good[:start] + content + good[start + len(content) :], "picture")
    except UserError:
        return
    assert picture.ndim == 2
    assert ((picture >= 0) & (picture <= 255)).all()


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_any_picture_becomes_an_image_or_is_blank(picture):
    try:
        image = find_digit(picture.astype(float))
    except UserError:
        return
    assert (image.shape, image.dtype) == (SHAPE, np.uint8)
    assert image.max() > 200


@pytest.mark.parametrize("module", ["jax_mlp.predict", "reference_torch.predict"])
def test_the_command(module, trained, digits, run, tmp_path):
    """Of good and bad files in one call; again, and with another image of the same name."""
    (tmp_path / "seven.png").write_bytes(png(digits[70]))
    (tmp_path / "blank.png").write_bytes(png(np.zeros((9, 9), np.uint8)))
    (tmp_path / "folder").mkdir()
    names = ["seven.png", "blank.png", "folder", "~nobody-here/x.png", str(trained.folder / "config.json")]
    process = run(module, str(trained.folder), *names, "--seen", "seen")
    assert process.returncode == 2
    assert re.fullmatch(
        r"seven\.png: 7 \d+\.\d%, \d 0?\.?\d+\.?\d*%, \d \d\.\d%; seen: seen/seven\.png\n", process.stdout
    )
    errors = process.stderr.splitlines()
    assert [line.removeprefix(f"python -m {module}: error: ") for line in errors] == [
        "blank.png: no digit: the picture is blank",
        "folder: not a file but a folder",
        "~nobody-here/x.png: Could not determine home directory.",
        f"{trained.folder}/config.json: neither PNG nor JPEG",
    ]
    np.testing.assert_array_equal(Image.open(tmp_path / "seen/seven.png"), digits[70])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{run}", "IMAGE or --draw: one of them"),
        ("{run} image.png --draw", "IMAGE or --draw: one of them, not both"),
        ("{run} image.png --port 8099", "--port is for the page of --draw"),
        ("{run} image.png --port 8098", "--port is for the page of --draw"),
        ("{run} --draw --seen x", "--seen is for images, not for --draw"),
        ("{run} --draw --port 70000", "--port must be from 0 to 65535, got 70000"),
        ("nowhere image.png", "nowhere: no such run folder"),
        ("{run} image.png --seen {run}/config.json", "cannot write .*config.json"),
    ],
)
def test_wrong_arguments(arguments, message, trained, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(png(digits[0]))
    monkeypatch.setattr("sys.argv", ["predict", *arguments.format(run=trained.folder).split()])
    with pytest.raises(SystemExit) as stop:
        command.run_predict("predict", NETWORKS["torch"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"predict: error: {message}", line)


def test_no_picture_of_what_was_seen_is_written_over_another(tmp_path, digits):
    first, second = (command.keep(digit, tmp_path / "new/seen", "one") for digit in digits[:2])
    assert (first.name, second.name) == ("one.png", "one-2.png")
    assert command.keep(digits[0], tmp_path / "new/seen", "one") == first, "it is there already"
    np.testing.assert_array_equal(Image.open(first), digits[0])
    np.testing.assert_array_equal(Image.open(second), digits[1])


def test_a_run_on_images_of_another_size_takes_these_as_they_are(tmp_path):
    config = Config(dataset=write_idx_folder(tmp_path, make_digits()), hidden=(4,), batch_size=50)
    parameters = {n: a.astype(np.float32) for n, a in initial_parameters("torch_linear", (30, 4, 3), seed=1).items()}
    folder = tmp_path / "run"
    reference_torch.train.train(
        dataclasses.replace(config, epochs=0, run_dir=folder), OutputOptions(visdom="off", quiet=True)
    )
    trained = Trained.load(folder)
    assert trained.image_format == ImageFormat((6, 5), False, None)
    assert trained.class_names == ("0", "1", "2")
    picture = np.arange(30.0).reshape(6, 5)
    np.testing.assert_array_equal(trained.see(picture, "picture"), picture)
    with pytest.raises(UserError, match="picture: 28x28, but the run's images are 5x6"):
        trained.see(np.zeros((28, 28)), "picture")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    recorded._load.cache_clear()
    np.testing.assert_array_equal(Trained.load(folder).see(picture, "picture"), picture)
    gone = write_run(tmp_path / "gone", config, parameters)
    without_record(folder, gone)
    with pytest.raises(UserError, match="is gone"):
        Trained.load(gone).see(picture, "picture")


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
        assert "ended with status -9" in (sides[1].answer() or sides[1].failure)
