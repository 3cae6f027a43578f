"""Pictures for networks that were trained on MNIST from other sources: made what the training images are."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import make_digits, without_record, write_idx_folder, write_run
from pictures import png
from PIL import Image
from tfds_files import write as write_prepared

import reference_torch.train
from mlp_workload.config import Config
from mlp_workload.data import Dataset, Examples
from mlp_workload.data.framing import MNIST, ImageFormat
from mlp_workload.errors import UserError
from mlp_workload.events import RunResumed, RunStarted
from mlp_workload.initial import initial_parameters
from mlp_workload.predict import image_file
from mlp_workload.predict.digit import SHAPE
from mlp_workload.predict.trained import Trained
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.sinks.json_lines import JsonLines

AS_MANY = 97
"""Pictures of 100 that must be right."""


def as_small(digit):
    """28x28, dark on light."""
    return png(Image.fromarray(255 - digit), "PNG")


def on_grey_paper(digit):
    """28x28, dark on paper that is not quite white."""
    return png(Image.fromarray(np.rint((255.0 - digit) * 232 / 255).astype(np.uint8)), "PNG")


def on_noisy_paper(digit):
    """28x28, dark on paper of 232 to 255."""
    noise = np.random.default_rng(int(digit.sum())).integers(0, 24, digit.shape)
    return png(Image.fromarray(np.clip(255.0 - digit - noise, 0, 255).astype(np.uint8)), "PNG")


def as_page(digit, kind="PNG"):
    """280x280, dark on light, off the middle."""
    page = Image.new("L", (280, 280), 255)
    page.paste(Image.fromarray(255 - digit).resize((196, 196), Image.Resampling.BICUBIC), (40, 30))
    return png(page, kind)


PICTURES = {
    "28x28 PNG": as_small,
    "28x28 PNG on grey paper": on_grey_paper,
    "28x28 PNG on noisy paper": on_noisy_paper,
    "280x280 PNG": as_page,
    "280x280 JPEG": partial(as_page, kind="JPEG"),
}


SOURCES = ("the files by their folder", "TFDS", "EMNIST's layout", "dark on light")
LARGE = {("EMNIST's layout", "280x280 PNG"), ("dark on light", "280x280 JPEG")}
"""Corners of the slow ones that `make test` has."""


@pytest.fixture(scope="module")
def elsewhere(request, mnist, trained, tmp_path_factory):
    """A run on MNIST's first images from another source, with the weights of `trained`; and whether they are dark."""
    folder = tmp_path_factory.mktemp("elsewhere")
    train, test = (Examples(part.images[:2000], part.labels[:2000]) for part in (mnist.train, mnist.test))
    some = dataclasses.replace(mnist, train=train, test=test)
    if request.param == "TFDS":
        write_tfds(folder, some)
        source = "tfds:emnist/digits"
    elif request.param == "EMNIST's layout":
        source = write_idx_folder(folder, stored_transposed(some), "emnist-digits-")
    elif request.param == "dark on light":
        parts = (Examples(255 - part.images, part.labels) for part in (train, test))
        source = write_idx_folder(folder, Dataset("", *parts, mnist.class_names))
    else:
        source = write_idx_folder(folder, some)
    config = Config(
        dataset=source, epochs=0, last_activation="none", run_dir=folder / "run",
        initial_weights=trained.folder / "weights.safetensors",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        reference_torch.train.train(config, OutputOptions(visdom="off", quiet=True))
    return Trained.load(folder / "run"), request.param == "dark on light"


def stored_transposed(dataset):
    parts = (Examples(part.images.swapaxes(1, 2), part.labels) for part in (dataset.train, dataset.test))
    return Dataset("", *parts, dataset.class_names)


def write_tfds(folder, dataset):
    """Writes EMNIST's digits as TFDS keeps them, by its own writer."""
    stored = stored_transposed(dataset)
    parts = {name: (part.images, part.labels) for name, part in (("train", stored.train), ("test", stored.test))}
    write_prepared(folder, "emnist", parts, {"image": tfds.features.Image(shape=(28, 28, 1))}, config="digits")


@pytest.mark.parametrize(
    ("elsewhere", "form"),
    [
        pytest.param(
            source,
            form,
            marks=[pytest.mark.long("100 large pictures")] * ("280" in form and (source, form) not in LARGE),
        )
        for source in SOURCES
        for form in PICTURES
    ],
    indirect=["elsewhere"],
    scope="module",
)
def test_digits_are_read_wherever_the_training_images_came_from(form, elsewhere, digits, networks):
    """Of ten of each class, at least 97 are taken for the same as from the array, in either framework."""
    there, is_dark = elsewhere
    images = np.stack([there.see(image_file.decode(PICTURES[form](digit), "picture"), "picture") for digit in digits])
    if is_dark:
        images = 255 - images
    for name, network in networks.items():
        of_array, of_picture = (network.predict(x).probabilities.argmax(axis=1) for x in (digits, images))
        assert (of_array == of_picture).sum() >= AS_MANY, (name, np.flatnonzero(of_array != of_picture))
    if form == "28x28 PNG":
        np.testing.assert_array_equal(images, digits)


@pytest.mark.parametrize("elsewhere", SOURCES, indirect=True)
def test_a_run_without_a_record_takes_it_from_its_data(trained, elsewhere, tmp_path, capsys):
    """As version 0.1 left it: MNIST is known by its digest, others are measured again; then the data are gone."""
    there, _ = elsewhere
    for run, images in ((trained, ImageFormat(SHAPE, False, MNIST)), (there, there.image_format)):
        old = write_run(tmp_path / run.folder.parent.name, run.config, run.parameters)
        without_record(run.folder, old)
        if run.config.dataset.startswith("tfds:"):
            continue
        assert Trained.load(old).image_format == images
    assert capsys.readouterr().err == ""
    gone = write_run(tmp_path / "gone", dataclasses.replace(there.config, dataset="idx:gone"), there.parameters)
    without_record(there.folder, gone)
    events = (gone / "events.jsonl").read_text()
    (gone / "events.jsonl").write_text(events.replace(json.dumps(there.config.dataset), '"idx:gone"'))
    assert Trained.load(gone).image_format == ImageFormat(SHAPE, False, MNIST)
    assert capsys.readouterr().err == (
        f"warning: {gone}: idx:gone is gone, and the run has no record of its images; "
        "pictures are drawn as MNIST draws digits\n"
    )


def test_only_config_and_weights_are_enough(trained, tmp_path, capsys):
    bare = Trained.load(write_run(tmp_path / "bare", trained.config, trained.parameters))
    assert bare.image_format == ImageFormat(SHAPE, False, MNIST)
    assert bare.class_names == tuple("0123456789")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"{", b"[1]\n", b'{"event": "run_started", "config": {}}\n'])
def test_without_readable_events_a_run_has_no_record(content, trained, tmp_path, capsys):
    run = Trained.load(write_run(tmp_path / "run", trained.config, trained.parameters))
    (run.folder / "events.jsonl").write_bytes(content)
    assert run.image_format == ImageFormat(SHAPE, False, MNIST)
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {run.folder / 'events.jsonl'}")
    assert warning.endswith("; the run is taken as one without a record\n")


def test_only_the_starts_of_a_run_are_read(trained, tmp_path, capsys):
    """What is damaged behind them does not matter."""
    run = Trained.load(write_run(tmp_path / "run", trained.config, trained.parameters))
    first, *_ = (trained.folder / "events.jsonl").read_text().splitlines()
    (run.folder / "events.jsonl").write_text(f"{first}\nnot an event\n")
    assert run.image_format == ImageFormat(SHAPE, False, MNIST)
    assert run.class_names == tuple("0123456789")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("images", {"shape": [28, 28]}, "what its events say of its images is not an image format"),
        ("images", {"shape": [9, 9], "transposed": False, "framing": None}, "images of another size than its network"),
        ("class_names", ["a"], "its events do not name its 10 classes"),
        ("class_names", list(range(10)), "its events do not name its 10 classes"),
        ("class_names", "0123456789", "its events do not name its 10 classes"),
    ],
)
def test_a_record_of_others_that_makes_no_sense_is_refused(name, value, message, trained, tmp_path):
    folder = write_run(tmp_path / "run", trained.config, trained.parameters)
    first, *_ = (trained.folder / "events.jsonl").read_text().splitlines()
    (folder / "events.jsonl").write_text(json.dumps(json.loads(first) | {name: value}) + "\n")
    with pytest.raises(UserError, match=message):
        getattr(Trained.load(folder), "class_names" if name == "class_names" else "image_format")


def test_the_data_of_a_run_are_where_it_was_resumed(tmp_path):
    digits = make_digits()
    config = Config(hidden=(8,), dataset="idx:nowhere")
    parameters = initial_parameters("torch_linear", config.widths(digits.pixels, digits.classes), 0)
    float32 = {name: array.astype(np.float32) for name, array in parameters.items()}
    run = write_run(tmp_path / "run", config, float32)
    sink = JsonLines(run / "events.jsonl")
    sink.emit(RunStarted(config, {}))
    assert Trained.load(run).known_images is None
    sink.emit(RunResumed(dataclasses.replace(config, dataset=write_idx_folder(tmp_path, digits)), {}, 6))
    sink.close()
    assert Trained.load(run).known_images.shape == (6, 5)
