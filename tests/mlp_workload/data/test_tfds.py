"""Sets that TFDS's own writer has written come back as they were, without TensorFlow and without network."""

import importlib.util
import os
import shutil
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import ROOT
from tfds_files import write

from mlp_workload.data import load
from mlp_workload.data.tfds import load_tfds
from mlp_workload.errors import UserError

TENSORFLOW = importlib.util.find_spec("tensorflow")
without_tensorflow = pytest.mark.skipif(TENSORFLOW is not None, reason="TensorFlow is installed")

# Loads sets where some packages seem not to be installed, and where the first touch of the network ends the process.
LOAD = """
import os, sys

names, *blocked = sys.argv[1:]

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)

sys.meta_path.insert(0, Blocker())
reaches_out = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"}
sys.addaudithook(lambda event, args: event in reaches_out and os._exit(99))

from mlp_workload.data import load
from mlp_workload.data.tfds import load_tfds
from mlp_workload.errors import UserError

status = 0
for name in names.split():
    try:
        print(load_tfds(name).digest)
    except UserError as error:
        print(error)
        status = 2
sys.exit(status)
"""


NOTHING = (), ()


def load_elsewhere(folder, names, *blocked):
    environment = os.environ | {"TFDS_DATA_DIR": str(folder)}
    command = [sys.executable, "-c", LOAD, names, *blocked]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def noise(n, height=6, width=5, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width), np.uint8), np.arange(n, dtype=np.int32) % classes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data folder of TFDS."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def written_digits(tmp_path_factory):
    """A data folder with one small set, to read in another process or to damage a copy of."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    write(folder, "digits", {"train": noise(2100), "test": noise(20, seed=1)})
    return folder


def test_mnist_comes_back_byte_for_byte(mnist, folder):
    """From three files; all of it does so in `with_tensorflow`."""
    parts = {"train": mnist.train, "test": mnist.test}
    splits = {name: (part.images[:2100], part.labels[:2100]) for name, part in parts.items()}
    write(folder, "mnist", splits, {"image": tfds.features.Image(shape=(28, 28, 1))}, examples_per_file=1000)
    assert len(list((folder / "mnist/3.0.1").glob("mnist-train.array_record-*"))) == 3
    dataset = load_tfds("mnist")
    assert dataset.source == "tfds:mnist"
    assert dataset.class_names == tuple("0123456789")
    for read, (images, labels) in zip((dataset.train, dataset.test), splits.values(), strict=True):
        np.testing.assert_array_equal(read.images, images, strict=True)
        np.testing.assert_array_equal(read.labels, labels, strict=True)


@pytest.mark.parametrize("name", ["digits:3.0.1", "digits:3.*.*"])
def test_a_version_may_be_named(name, written_digits, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(written_digits))
    assert load_tfds(name).source == f"tfds:{name}"


def test_the_default_folder_is_in_the_home(written_digits, tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tensorflow_datasets").symlink_to(written_digits)
    assert len(load_tfds("digits").train) == 2100


def test_other_sizes_classes_and_configurations(folder):
    names = tuple(f"class {k}" for k in range(37))
    images, labels = noise(2500, 20, 24, classes=36)
    labels += 1  # EMNIST letters has no label 0
    splits = {"train": (images, labels), "test": (images[:99], labels[:99])}
    features = {"image": tfds.features.Image(shape=(20, 24, 1)), "label": tfds.features.ClassLabel(names=names)}
    write(folder, "emnist", splits, features, config="letters")
    dataset = load_tfds("emnist/letters")
    assert dataset.class_names == names
    np.testing.assert_array_equal(dataset.train.images, images, strict=True)
    np.testing.assert_array_equal(dataset.train.labels, labels, strict=True)
    np.testing.assert_array_equal(dataset.test.images, images[:99], strict=True)
    np.testing.assert_array_equal(dataset.test.labels, labels[:99], strict=True)


def test_emnist_has_letters_for_names_and_is_turned_upright(folder):
    images, labels = noise(60)
    labels = (labels % 26 + 1).astype(np.int32)
    splits = {"train": (images, labels), "test": (images, labels)}
    write(folder, "emnist", splits, {"label": tfds.features.ClassLabel(num_classes=37)}, config="letters")
    dataset = load("tfds:emnist/letters")
    np.testing.assert_array_equal(dataset.train.images, images.swapaxes(1, 2))
    assert dataset.class_names == ("0", *(f"{a}{a.lower()}" for a in string.ascii_uppercase), *map(str, range(27, 37)))
    assert dataset.notes == ("EMNIST stores its images transposed: they are turned upright",)


def test_keys_need_not_be_declared(folder):
    write(folder, "digits", {"train": noise(30), "test": noise(20)}, keys=None)
    assert len(load_tfds("digits").test) == 20


def test_validation_stands_in_for_a_missing_test_split(folder):
    write(folder, "digits", {"train": noise(30), "validation": noise(20)})
    assert len(load_tfds("digits").test) == 20


def test_test_goes_before_validation(folder):
    write(folder, "digits", {"train": noise(30), "validation": noise(20), "test": noise(10)})
    assert len(load_tfds("digits").test) == 10


@pytest.mark.parametrize("splits", [["train", "extra"], ["test", "extra"]])
def test_missing_splits_are_refused(splits, folder):
    write(folder, "digits", {split: noise(20) for split in splits})
    with pytest.raises(UserError, match=rf"^tfds:digits: needs the splits train and test .*, has .*{splits[1]}"):
        load_tfds("digits")


UNFIT = {
    "colour": ({"image": tfds.features.Image(shape=(6, 5, 3))}, "has uint8 (6, 5, 3)"),
    "unlike sizes": ({"image": tfds.features.Image(shape=(None, None, 1))}, "has uint8 (None, None, 1)"),
    "16 bits": ({"image": tfds.features.Image(shape=(6, 5, 1), dtype=np.uint16)}, "has uint16 (6, 5, 1)"),
    "no image": ({"image": tfds.features.Tensor(shape=(6, 5, 1), dtype=np.uint8)}, "feature image is not an image"),
    "no class": ({"label": tfds.features.Scalar(dtype=np.int64)}, "feature label is not a class label"),
    "open classes": ({"label": tfds.features.ClassLabel()}, "feature label is not a class label"),
}


@pytest.mark.parametrize(("features", "message"), UNFIT.values(), ids=UNFIT)
def test_unfit_features_are_refused(features, message, folder):
    write(folder, "digits", {"train": NOTHING, "test": NOTHING}, features)
    with pytest.raises(UserError) as raised:
        load_tfds("digits")
    assert str(raised.value).startswith("tfds:digits: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("picture", "label"), "feature picture is not an image"),
        (("image", "digit"), "feature digit is not a class label"),
    ],
)
def test_absent_features_are_refused(keys, message, folder):
    write(folder, "digits", {"train": NOTHING, "test": NOTHING})
    info = folder / "digits/3.0.1/dataset_info.json"
    for old, new in zip(("image", "label"), keys, strict=True):
        info.write_text(info.read_text().replace(f'"{old}"', f'"{new}"'))
    with pytest.raises(UserError, match=f"^tfds:digits: {message}; the features are image, label$"):
        load_tfds("digits")


def test_an_unfit_set_is_refused_before_its_download(folder):
    with pytest.raises(UserError, match=r"^tfds:cifar10: needs grey .*, has uint8 \(32, 32, 3\)$"):
        load_tfds("cifar10")


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def garble(file):
    file.write_text("{")


DAMAGES = {
    "cut records": (cut, "digits-train.array_record-00000"),
    "flipped byte": (flip, "digits-train.array_record-00000"),
    "no records": (Path.unlink, "digits-test.array_record-00000"),
    "no info": (Path.unlink, "dataset_info.json"),
    "garbled info": (garble, "dataset_info.json"),
    "garbled features": (garble, "features.json"),
}


@pytest.mark.parametrize(("damage", "file"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_set_is_refused(damage, file, written_digits, folder):
    shutil.copytree(written_digits / "digits", folder / "digits")
    assert len(load_tfds("digits").train) == 2100
    damage(folder / "digits/3.0.1" / file)
    with pytest.raises(UserError) as raised:
        load_tfds("digits")
    line = str(raised.value)
    assert line.startswith(
        f"tfds:digits: cannot be read; if damaged, remove it from {folder} to have it prepared again ("
    )
    assert "\n" not in line


def test_a_stock_set_without_its_features_is_refused(folder):
    (folder / "mnist/3.0.1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^tfds:mnist: damaged; remove .*mnist/3.0.1 to have it prepared again$"):
        load_tfds("mnist")


def test_a_picture_of_another_size_than_declared_is_refused(folder):
    write(folder, "digits", {"train": noise(30), "test": noise(20, 1, 5)})
    with pytest.raises(UserError, match=r"^tfds:digits: cannot be read; .* shape"):
        load_tfds("digits")


def test_a_failure_of_many_lines_is_told_in_one(monkeypatch):
    def fail(name, folder):
        raise ValueError("first\n\n  second\n" + 100 * "and so on\n")

    monkeypatch.setattr("mlp_workload.data.tfds._find", fail)
    with pytest.raises(UserError, match=r"\(ValueError: first second and so on .{,300}\)$"):
        load_tfds("mnist")


def test_reading_touches_no_network_and_prints_nothing(written_digits, monkeypatch):
    result = load_elsewhere(written_digits, "digits")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    monkeypatch.setenv("TFDS_DATA_DIR", str(written_digits))
    assert result.stdout == f"{load_tfds('digits').digest}\n"


REFUSALS = {
    "mnits": "neither prepared in FOLDER nor known to TFDS, which knows mnist",
    "qqqqqq": "neither prepared in FOLDER nor known to TFDS\n",
    "mnist:2.0.0": "Dataset mnist cannot be loaded at version 2.0.0, only: 3.0.1.",
    "emnist/letter": "BuilderConfig letter not found",
    "huggingface:mnist": "not a name of TFDS, which look like mnist, emnist/letters or mnist:3.0.1\n",
    "../mnist": "not a name of TFDS",
}


def test_what_cannot_be_prepared_is_refused(tmp_path):
    result = load_elsewhere(tmp_path, " ".join(REFUSALS))
    assert (result.returncode, result.stderr) == (2, "")
    for line, (name, message) in zip(result.stdout.splitlines(keepends=True), REFUSALS.items(), strict=True):
        assert line.startswith(f"tfds:{name}: ")
        assert message.replace("FOLDER", str(tmp_path)) in line


def test_a_set_is_not_prepared_unless_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=f"^tfds:mnist: not prepared in {tmp_path}$"):
        load("tfds:mnist", prepare=False)


@without_tensorflow
@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("mnist", "not prepared in FOLDER; to prepare it"),
        ("digits", "prepared in FOLDER/digits/3.0.1 as tfrecord; to read that"),
    ],
)
def test_what_takes_tensorflow_asks_for_it(name, purpose, folder):
    write(folder, "digits", {"train": NOTHING, "test": NOTHING}, file_format="tfrecord")
    result = load_elsewhere(folder, name)
    assert (result.returncode, result.stderr) == (2, "")
    needed = "TensorFlow is needed: pip install '.[tfds]' in the project's folder (No module named 'tensorflow')"
    assert result.stdout == f"tfds:{name}: {purpose.replace('FOLDER', str(folder))}, {needed}\n"


@pytest.mark.parametrize("package", ["tensorflow_datasets", "promise", "array_record", "PIL"])
def test_a_missing_package_is_named(package, written_digits):
    result = load_elsewhere(written_digits, "digits", package, *["cv2"] * (package == "PIL"))
    assert (result.returncode, result.stderr) == (2, "")
    assert package in result.stdout
    assert result.stdout.endswith("(pip install '.[tfds]' in the project's folder)\n")
    assert result.stdout.count("\n") == 1
