"""Pictures of digits, from files and drawn on the page: what the network sees of them, and what it takes them for."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import make_digits, without_record, write_idx_folder, write_run
from pictures import NETWORKS, png, seen
from PIL import Image
from tolerances import FORWARD_BACKWARD, PROBABILITIES

import reference_torch.train
from mlp_workload.config import Config
from mlp_workload.data.framing import MNIST, ImageFormat
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.predict import command
from mlp_workload.predict.digit import _in_box, _strokes, is_already
from mlp_workload.predict.trained import Trained
from mlp_workload.run import recorded
from mlp_workload.run.output_options import OutputOptions

DIGITS = 100
AS_MANY = 97
"""Of these must be taken for the same after a disturbance."""


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
    recorded.load_if_present.cache_clear()
    np.testing.assert_array_equal(Trained.load(folder).see(picture, "picture"), picture)
    gone = write_run(tmp_path / "gone", config, parameters)
    without_record(folder, gone)
    with pytest.raises(UserError, match="is gone"):
        Trained.load(gone).see(picture, "picture")


@pytest.mark.parametrize(
    "settings", [{"devices": 8, "split_hidden": 2, "matmul_precision": "tf32"}, {"gpu": 1}], ids=str
)
def test_a_run_on_gpus_predicts_on_one_cpu(settings, tmp_path):
    config = Config(device="gpu", deterministic=True, **settings)
    assert Trained(tmp_path, config, {}).on_cpu == Config(device="cpu")


@pytest.mark.parametrize(
    ("images", "layout"),
    [
        (ImageFormat((6, 5), False, MNIST), "rows of 5x6, light on dark"),
        (ImageFormat((6, 5), True, None), "rows of 6x5, transposed"),
        (None, ""),
    ],
)
def test_the_layout_is_that_of_the_networks_pixels(images, layout, tmp_path):
    trained = Trained(tmp_path, Config(), {})
    vars(trained)["known_images"] = images
    assert trained.layout == layout


def test_an_image_that_is_named_twice_is_answered_once(tmp_path, capsys):
    trained = Trained(tmp_path, Config(), {})
    vars(trained).update(known_images=ImageFormat((28, 28), False, MNIST), class_names=("a", "b", "c", "d"))
    field = np.zeros((28, 28), np.uint8)
    field[5:24, 12:17] = 255
    path = tmp_path / "one.png"
    path.write_bytes(png(field, "PNG"))
    network = SimpleNamespace(predict=lambda _: SimpleNamespace(probabilities=np.array([[0.1, 0.5, 0.15, 0.25]])))
    options = command.Predict(run=tmp_path, images=(path, path))
    assert command.predict(options, trained, lambda _: network, "predict")
    assert capsys.readouterr().out == f"{path}: b 50.0%, d 25.0%, c 15.0%; seen: {tmp_path / 'seen/one.png'}\n"
    options = command.Predict(run=tmp_path, images=(path, tmp_path / "gone.png"))
    assert not command.predict(options, trained, lambda _: network, "predict")


def test_strokes_are_the_large_parts_inside_the_picture_if_there_are_any():
    """A desk at the border and dirt are none."""
    desk, stroke, dirt = np.zeros((3, 40, 40), bool)
    desk[:6], stroke[15:25, 18:22], dirt[33, 33] = True, True, True
    np.testing.assert_array_equal(_strokes(desk | stroke | dirt), stroke)
    np.testing.assert_array_equal(_strokes(desk | dirt), desk)


@pytest.mark.parametrize(("shape", "drawn"), [((28, 28), (5, 20)), ((28, 12), (3, 12)), ((4, 28), (4, 16))])
def test_a_digit_is_scaled_to_the_box_and_to_the_image(shape, drawn):
    scaled = _in_box(np.ones((10, 40)), shape, box=20)
    assert scaled.shape == drawn
    assert scaled.max() == 1
