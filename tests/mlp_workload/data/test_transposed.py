"""Data sets that are stored transposed, as EMNIST is: read upright, shown upright, and runs of version 0.1 on them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import write_idx_folder
from safetensors.numpy import load_file

import reference_torch.train
from mlp_compare.report import page
from mlp_workload.config import Config
from mlp_workload.data import Dataset, Examples, load
from mlp_workload.data.emnist import is_emnist
from mlp_workload.errors import UserError
from mlp_workload.events import RunStarted
from mlp_workload.predict.trained import Trained
from mlp_workload.run import recorded
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.visdom.picture import Picture

QUIET = OutputOptions(visdom="off", quiet=True)
LINE = "EMNIST stores its images transposed: they are turned upright"
EXCHANGED = "rows and columns are exchanged: the run was trained on"


@pytest.fixture(scope="module")
def upright(mnist):
    """600 and 100 of MNIST's images, cut to 28x24, so that height and width can't be taken for one another."""
    train, test = (
        Examples(part.images[:n, :, 2:26], part.labels[:n]) for part, n in ((mnist.train, 600), (mnist.test, 100))
    )
    return Dataset("upright", train, test, mnist.class_names)


@pytest.fixture
def stored(upright, tmp_path):
    """The specification of a folder that has them as EMNIST stores them."""
    folder = tmp_path / "EMNIST"
    folder.mkdir()
    write_idx_folder(folder, transposed(upright), "emnist-digits-")
    return f"idx:{folder}"


def transposed(dataset):
    parts = [Examples(part.images.swapaxes(1, 2), part.labels) for part in (dataset.train, dataset.test)]
    return Dataset("stored", *parts, dataset.class_names)


def test_emnist_is_turned_upright_and_says_so(stored, upright):
    dataset = load(stored)
    assert dataset.digest == upright.digest
    assert dataset.notes == (LINE,)
    assert dataset.image_format == upright.image_format
    assert load(f"{stored}/emnist-digits").digest == upright.digest
    assert load(stored, transpose=True).digest == upright.digest, "the flag turns it no second time"


def test_others_are_turned_by_the_flag(upright, tmp_path):
    source = write_idx_folder(tmp_path, transposed(upright))
    assert load(source).digest == transposed(upright).digest
    assert load(source).notes == ()
    dataset = load(source, transpose=True)
    assert dataset.digest == upright.digest
    assert dataset.notes == ("--transpose-images: the images are turned upright",)


def test_the_flag_can_take_emnist_as_it_is_stored(stored, upright):
    dataset = load(stored, transpose=False)
    assert (dataset.digest, dataset.transposed, dataset.notes) == (transposed(upright).digest, False, ())


@pytest.mark.parametrize(
    ("trained_on", "recorded", "found", "expected", "notes"),
    [
        ("upright", False, "by name", False, (LINE,)),
        ("upright", False, "stored", False, (f"{EXCHANGED} upright images",)),
        ("upright", None, "by name", False, (LINE,)),
        ("upright", None, "stored", "refused", ()),
        ("transposed", None, "by name", True, (f"{EXCHANGED} transposed images",)),
        ("transposed", None, "stored", False, ()),
        ("transposed", True, "by name", True, (f"{EXCHANGED} transposed images",)),
        ("transposed", True, "stored", True, ()),
        ("transposed", False, "by name", False, (f"{EXCHANGED} upright images",)),
    ],
)
def test_a_run_has_the_orientation_that_it_recorded(trained_on, recorded, found, expected, notes, stored, upright):
    """Wherever its data are read from now, and by whatever flag."""
    digest = (upright if trained_on == "upright" else transposed(upright)).digest
    images = None if recorded is None else {"transposed": recorded}
    dataset = load(stored, transpose=None if found == "by name" else False).as_trained(digest, images)
    if expected == "refused":
        assert dataset is None
    else:
        assert (dataset.digest, dataset.transposed, dataset.notes) == (digest, expected, notes)


def test_a_run_by_the_flag_goes_on_without_it(upright, tmp_path, run_on):
    """Upright, as it began."""
    source = write_idx_folder(tmp_path, transposed(upright))
    folder = run_on(source, transpose_images=True)
    config = Config.from_json((folder / "config.json").read_text())
    reference_torch.train.train(replace(config, transpose_images=False, epochs=2), QUIET, resume=True)
    assert RecordedRun.load(folder).events[-1].summary["data_notes"] == [f"{EXCHANGED} upright images"]
    recorded.load_if_present.cache_clear()
    assert not Trained.load(folder).image_format.transposed
    assert not RecordedRun.load(folder).dataset.transposed


@pytest.mark.parametrize("name", ["emnist", "emnist-letters", "EMNIST-byclass", "emnist/mnist:3.1.0", "emnist:3.*.*"])
def test_names_of_emnist(name):
    assert is_emnist(name)


@pytest.mark.parametrize("name", ["", "mnist", "qmnist", "kmnist", "emnistic", "not-emnist", "fashion_mnist"])
def test_names_of_others(name):
    assert not is_emnist(name)


LETTERS = "".join(f"{k} {64 + k} {96 + k}\n" for k in range(1, 27))


@pytest.mark.parametrize(
    ("prefix", "mapping", "largest", "expected"),
    [
        ("emnist-letters-", LETTERS, 26, {0: "0", 1: "Aa", 26: "Zz"}),
        ("emnist-letters-", None, 26, {0: "0", 1: "Aa", 26: "Zz"}),
        ("emnist-balanced-", None, 46, {0: "0", 10: "A", 35: "Z", 36: "a", 38: "d", 46: "t"}),
        ("emnist-byclass-", None, 61, {9: "9", 10: "A", 36: "a", 61: "z"}),
        ("emnist-digits-", None, 9, {0: "0", 9: "9"}),
        ("hiragana-", "0 12362\n\n1 12365\r\n", 2, {0: "お", 1: "き", 2: "2"}),
        ("letters-", None, 26, {1: "1", 26: "26"}),
    ],
)
def test_class_names(prefix, mapping, largest, expected, tmp_path):
    images, labels = np.zeros((largest + 1, 3, 3), np.uint8), np.arange(largest + 1, dtype=np.int32)
    part = Examples(images, labels)
    source = write_idx_folder(tmp_path, Dataset("", part, part, ("",) * (largest + 1)), prefix)
    if mapping is not None:
        (tmp_path / f"{prefix}mapping.txt").write_bytes(mapping.encode())
    names = load(source).class_names
    assert len(names) == largest + 1
    assert {label: names[label] for label in expected} == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0 48\nzero\n", "line 2: not a label and the codes"),
        (b"0\n", "line 1: not a label and the codes"),
        (b"0 -1\n", "line 1"),
        (b"0 1114112\n", "line 1"),
        (b"0 55296\n", "line 1"),
        (b"0 27\n", "line 1"),
        (b"0 32\n", "line 1"),
        (b"0 " + b"9" * 5000, "line 1"),
        (b"\xff\xfe", "no text"),
        (b"0 48\n" * 20_000, "larger than 64 KiB"),
    ],
)
def test_a_bad_mapping_is_refused(content, message, stored):
    (Path(stored.removeprefix("idx:")) / "emnist-digits-mapping.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"emnist-digits-mapping\.txt.*{message}"):
        load(stored)


@pytest.fixture
def run_on(tmp_path):
    """Trains by torch, in folder "run", on a specification."""

    def train(dataset, **options):
        settings = {"hidden": (8,), "batch_size": 100, "epochs": 1, "run_dir": tmp_path / "run"} | options
        reference_torch.train.train(Config(dataset=dataset, **settings), QUIET)
        recorded.load_if_present.cache_clear()
        return settings["run_dir"]

    return train


@pytest.fixture
def old_run(stored, upright, run_on, tmp_path):
    """As version 0.1 left it: trained on the images as they are stored, without a record of them."""
    plain = tmp_path / "plain"
    plain.mkdir()
    before = write_idx_folder(plain, transposed(upright))
    folder = run_on(before)
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    for line in lines:
        for facts in (line, line.get("config", {}), line.get("summary", {})):
            for name in ("images", "class_names", "data_notes", "transpose_images"):
                facts.pop(name, None)
    config = json.loads((folder / "config.json").read_text())
    del config["transpose_images"]
    texts = {"config.json": json.dumps(config), "events.jsonl": "".join(f"{json.dumps(line)}\n" for line in lines)}
    for name, text in texts.items():
        (folder / name).write_text(text.replace(before, stored))
    return folder


def test_the_console_says_it_and_the_run_records_it(stored, upright, tmp_path, capsys):
    config = Config(dataset=stored, hidden=(8,), batch_size=100, epochs=0, run_dir=tmp_path / "run")
    reference_torch.train.train(config, OutputOptions(visdom="off"))
    assert f"{stored}: {LINE}\n" in capsys.readouterr().out
    facts = RecordedRun.load(tmp_path / "run").facts
    assert facts["data_notes"] == [LINE]
    assert facts["class_names"] == list("0123456789")
    assert Trained.load(tmp_path / "run").image_format == upright.image_format


def test_pictures_and_report_are_upright(stored, upright, run_on):
    shown = [Picture(dataset).images for dataset in (load(stored), upright)]
    np.testing.assert_array_equal(*shown)
    run = RecordedRun.load(run_on(stored))
    assert page._mistakes(run)["mistakes"][0]["picture"] == page._png(
        upright.test.images[run.evaluations[-1].mistakes.examples[0]]
    )


def test_a_run_of_version_0_1_is_shown_upright(old_run, upright):
    run = RecordedRun.load(old_run)
    assert run.dataset.transposed
    np.testing.assert_array_equal(Picture(run.dataset).images, Picture(upright).images)
    mistakes, example = page._mistakes(run)["mistakes"], run.evaluations[-1].mistakes.examples[0]
    assert mistakes[0]["picture"] == page._png(upright.test.images[example])
    weights = load_file(old_run / "weights.safetensors")["layers.0.weight"]
    tiles = run.dataset.upright(weights.reshape(-1, 24, 28))
    assert tiles.shape == (8, 28, 24)
    first = page._first_layer(run)["picture"]
    assert page.Image.open(page.io.BytesIO(page.base64.b64decode(first.partition(",")[2]))).size == (8 * 26, 30)


def test_a_run_of_version_0_1_predicts_from_transposed_pictures(old_run, upright, capsys):
    trained = Trained.load(old_run)
    picture = 255.0 - upright.test.images[3]
    np.testing.assert_array_equal(trained.see(picture, "picture"), upright.test.images[3].T)
    trained.see(picture, "picture")
    assert capsys.readouterr().err == (
        f"warning: {old_run} was trained on transposed images: pictures are transposed for its network\n"
    )


def test_a_run_of_version_0_1_goes_on_with_its_transposed_images(old_run, tmp_path, run_on):
    """To the same bytes as a run of two epochs on these."""
    config = Config.from_json((old_run / "config.json").read_text())
    reference_torch.train.train(replace(config, epochs=2, run_dir=old_run), QUIET, resume=True)
    resumed = RecordedRun.load(old_run)
    assert resumed.events[-1].summary["data_notes"] == [f"{EXCHANGED} transposed images"]
    assert resumed.dataset.transposed
    whole = run_on(f"idx:{tmp_path / 'plain'}", epochs=2, run_dir=tmp_path / "whole")
    one, other = (load_file(folder / "weights.safetensors") for folder in (old_run, whole))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    images = Trained.load(old_run).image_format
    assert (images.transposed, images.shape) == (True, (28, 24))


def test_other_data_are_refused_when_a_run_goes_on(old_run, stored):
    labels = Path(stored.removeprefix("idx:")) / "emnist-digits-train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[10] ^= 1
    labels.write_bytes(content)
    config = Config.from_json((old_run / "config.json").read_text())
    with pytest.raises(UserError, match="is not what the run was trained on"):
        reference_torch.train.train(replace(config, epochs=2, run_dir=old_run), QUIET, resume=True)


def test_a_run_by_the_flag_goes_on_where_the_data_have_emnists_name(upright, stored, tmp_path, run_on):
    """The flag may change with the place of the data, as long as the images are the same."""
    plain = tmp_path / "plain"
    plain.mkdir()
    folder = run_on(write_idx_folder(plain, transposed(upright)), transpose_images=True)
    config = Config.from_json((folder / "config.json").read_text())
    assert config.transpose_images
    moved = replace(config, dataset=stored, transpose_images=False, epochs=2, run_dir=folder)
    reference_torch.train.train(moved, QUIET, resume=True)
    run = RecordedRun.load(folder)
    assert [event.config.transpose_images for event in run.events if hasattr(event, "config")] == [True, False]
    assert not run.dataset.transposed
    assert isinstance(run.events[0], RunStarted)
