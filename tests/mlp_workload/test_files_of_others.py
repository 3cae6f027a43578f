"""Files that may come from elsewhere: what is no file, can't be read, or claims a size that it has not."""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import socket
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import train_with, write_idx_folder

import mlp_compare.report.__main__ as report_page
from examples.numpy_side.train import framework as numpy_framework
from experiments.scaling.report import marked
from jax_mlp.sharding import find_devices
from mlp_workload.config import PRESETS, Config
from mlp_workload.data.idx import read_idx
from mlp_workload.errors import UserError
from mlp_workload.files import read_json, read_safetensors, write_atomically
from mlp_workload.predict import image_file
from mlp_workload.predict.trained import Trained
from mlp_workload.run.checkpoint import Checkpoint, Checkpoints
from mlp_workload.run.checkpointing import resumed_from
from mlp_workload.run.folder import RunFolder, read_config
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.sinks.json_lines import JsonLines, check_can_change, cut_events
from mlp_workload.visdom import assets
from mlp_workload.visdom.windows import environment_name
from mlp_workload.weights import load_layers, load_weights, parameter_shapes, save_weights
from reference_torch import state_dict
from twincheck.trace import Trace

SHAPES = parameter_shapes((30, 3))
CONFIG = dataclasses.replace(PRESETS["leaky"], hidden=(), batch_size=20, epochs=1)
TOO_LONG = 120
"""Seconds; nearly all of these take some milliseconds."""


@pytest.fixture(autouse=True)
def _nothing_waits():
    def late(*_):
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(TOO_LONG)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def bind(path):
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(path.name)  # a whole path can be too long


KINDS = {
    "a named pipe": os.mkfifo,
    "a socket": bind,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": os.mkdir,
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
}


def reserve(path):
    with RunFolder(path.parent, is_new=False, lock=None).reserve(10):
        pass


READERS = {
    "config.json": lambda path: read_config(path.parent),
    "summary.json": lambda path: RunFolder(path.parent, is_new=False, lock=None).finished_epochs(100),
    ".room-for-weights": reserve,
    "events.jsonl": lambda path: RecordedRun.load(path.parent),
    "events.jsonl changed": check_can_change,
    "events.jsonl cut": lambda path: cut_events(path, 0),
    "events.jsonl continued": lambda path: JsonLines(path, resumed=True),
    "weights.safetensors": lambda path: Trained.load(path.parent),
    "weights.safetensors to start from": lambda path: load_weights(path, SHAPES),
    "step-00000008.safetensors": lambda path: Checkpoints(path.parent).newest(),
    "layers.safetensors": load_layers,
    "trace.safetensors": Trace.load,
    "a.pt": state_dict.read,
    "train-images-idx3-ubyte": lambda path: read_idx(path, 3),
    "digit.png": image_file.read,
    "result.json": read_json,
    "scaling.md": marked,
}


CHECKPOINT = "step-00000008.safetensors"
"""A folder of this name is no checkpoint."""


@pytest.mark.parametrize(
    ("reader", "kind"), [pair for pair in itertools.product(READERS, KINDS) if pair != (CHECKPOINT, "a folder")]
)
def test_what_is_no_file_is_named_at_once_and_left(reader, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / reader.partition(" ")[0]
    if path.name != "config.json":
        (tmp_path / "config.json").write_text(CONFIG.to_json())
    KINDS[kind](path)
    with pytest.raises(UserError, match=kind):
        READERS[reader](path)
    assert os.path.lexists(path)


@pytest.mark.parametrize("kind", ["a named pipe", "a link that leads nowhere"])
def test_nothing_is_written_into_what_lies_at_a_temporary_name(kind, tmp_path):
    KINDS[kind](tmp_path / f".weights.{os.getpid()}.tmp")
    write_atomically(tmp_path / "weights", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("weights", b"new")]


def test_page_assets_are_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "node_modules/jquery"
    package.mkdir(parents=True)
    os.mkfifo(package / "package.json")
    assets._from_node_modules(tmp_path)
    assert not (tmp_path / "js").exists()


def checkpoint(step, config=CONFIG, digest=""):
    state = {name: np.full(shape, step, np.float32) for name, shape in SHAPES.items()}
    return Checkpoint(json.loads(config.to_json()), digest, "jax", step, 1, 0, 0.0, np.empty(0, np.float32), state)


@pytest.fixture
def two(tmp_path):
    """The checkpoints of steps 7 and 8, and the path of the newer."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (7, 8):
        checkpoints.save(checkpoint(step))
    return checkpoints, tmp_path / "checkpoints/step-00000008.safetensors"


def test_a_damaged_checkpoint_is_set_aside_with_its_bytes(two, capsys):
    checkpoints, newest = two
    damaged = newest.read_bytes()[:-1]
    newest.write_bytes(damaged)
    assert checkpoints.newest().step == 7
    assert "going on from step 7" in capsys.readouterr().err
    checkpoints.set_aside_after(7)
    assert newest.with_name(f"{newest.name}.damaged").read_bytes() == damaged
    assert not newest.exists()
    checkpoints.save(checkpoint(9))
    assert checkpoints.newest().step == 9


@contextlib.contextmanager
def no_rights():
    """Root reads what nobody may read."""
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)


def test_what_nobody_may_read_is_said_to_be_so():
    """A checkpoint is not passed over then, and weights are not missing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for step in (7, 8):
            Checkpoints(folder / "checkpoints").save(checkpoint(step))
        (folder / "config.json").write_text(CONFIG.to_json())
        save_weights(folder / "weights.safetensors", checkpoint(8).state)
        for path in (folder / "checkpoints/step-00000008.safetensors", folder / "weights.safetensors"):
            path.chmod(0)
        with no_rights():
            with pytest.raises(UserError, match=r"08\.safetensors: Permission denied; .* neither skipped nor removed"):
                Checkpoints(folder / "checkpoints").newest()
            with pytest.raises(UserError, match=r"weights\.safetensors: Permission denied"):
                Trained.load(folder)
            with pytest.raises(UserError, match=r"weights\.safetensors: Permission denied"):
                load_weights(folder / "weights.safetensors", SHAPES)


def test_a_run_without_a_checkpoint_names_its_weights(tmp_path, digits):
    """A run folder as a nearly full disk leaves it."""
    place = tmp_path / "it's mine"
    place.mkdir()
    folder = RunFolder(place, is_new=False, lock=None)
    with pytest.raises(UserError, match=r"it has no checkpoint$"):
        resumed_from(folder, CONFIG, digits)
    save_weights(folder.weights, checkpoint(8).state)
    with pytest.raises(UserError, match=r"--initial-weights '.*/it'\"'\"'s mine/weights.safetensors' and"):
        resumed_from(folder, CONFIG, digits)


@pytest.mark.parametrize("devices", [1000, 10**6])
def test_more_devices_than_a_cpu_can_be_are_refused(devices):
    with pytest.raises(UserError, match=rf"--devices must be at most \d+ in a process, got {devices}"):
        find_devices(Config(devices=devices, batch_size=devices))


def write_safetensors(path, dtype, shape, size):
    """One tensor of zeros; a large one takes no room on the disk."""
    header = json.dumps({"layers.0.weight": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + size)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F6_E2M3", "F6_E3M2", "F4"])
def test_types_that_numpy_lacks_are_named(dtype, tmp_path):
    path = tmp_path / "w.safetensors"
    write_safetensors(path, dtype, [8], {"BF": 16, "F8": 8, "F6": 6, "F4": 4}[dtype[:2]])
    with pytest.raises(UserError, match=f"layers.0.weight is {dtype}, which NumPy lacks"):
        read_safetensors(path, "safetensors file")


HUGE = 2**42
"""Bytes, more than any machine's memory here."""


def test_a_sparse_file_of_weights_is_refused_unread(tmp_path):
    path = tmp_path / "w.safetensors"
    write_safetensors(path, "F32", [2**20, 2**20], HUGE)
    with pytest.raises(UserError, match=r"4,096\.0 GiB, too large for a memory of"):
        load_layers(path)
    with pytest.raises(UserError, match=r"layers.0.bias is missing"):
        load_weights(path, SHAPES)
    with pytest.raises(UserError, match=r"layers.0.weight has shape \(1048576, 1048576\), expected \(3, 30\)"):
        load_weights(path, {"layers.0.weight": (3, 30)})


def test_sparse_files_of_text_and_images_are_refused(tmp_path):
    for name in ("config.json", "summary.json", "events.jsonl"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 2**40)
    with pytest.raises(UserError, match=r"config\.json: larger than 64 MiB"):
        read_config(tmp_path)
    with pytest.raises(UserError, match=r"summary\.json: larger than 64 MiB"):
        read_json(tmp_path / "summary.json")
    with pytest.raises(UserError, match=r"events\.jsonl: a line of more than 256 MiB"):
        RecordedRun.load(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte"
    images.write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**20, 2**10, 2**10))
    os.truncate(images, 16 + 2**40)
    with pytest.raises(UserError, match=r"1,024\.0 GiB, too large for a memory of"):
        read_idx(images, 3)


EXPANDED = {
    "14 GB": torch.zeros(1).expand(60_000, 60_000),
    "2**64 bytes": torch.zeros(1).expand(2**31, 2**31),
    "more than the file": torch.zeros(1).expand(1000, 1000),
}


@pytest.mark.parametrize("name", EXPANDED)
@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_that_repeat_their_numbers_are_refused(name, as_zip, tmp_path):
    torch.save({"0.weight": EXPANDED[name]}, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
    with pytest.raises(UserError, match=r"a.pt: 0.weight takes \d+ bytes, more than the whole file: save a copy"):
        state_dict.read(tmp_path / "a.pt")


def test_a_small_bias_that_repeats_one_number_is_read(tmp_path):
    torch.save({"0.weight": torch.zeros(3, 4), "0.bias": torch.ones(1).expand(3)}, tmp_path / "a.pt")
    np.testing.assert_array_equal(state_dict.read(tmp_path / "a.pt")["layers.0.bias"], np.ones(3, np.float32))


def test_all_tensors_of_a_file_must_fit_into_memory_together(tmp_path, monkeypatch):
    torch.save({"0.weight": torch.zeros(3, 4), "0.bias": torch.zeros(3)}, tmp_path / "a.pt")
    asked = []
    monkeypatch.setattr(state_dict, "check_fits_memory", lambda size, source: asked.append(size))
    state_dict.read(tmp_path / "a.pt")
    assert asked == [(tmp_path / "a.pt").stat().st_size, 48, 60]


def test_compressed_numbers_are_refused(tmp_path):
    """Of which a small file can hold any number."""
    torch.save({"0.weight": torch.zeros(3, 4), "0.bias": torch.zeros(3)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as stored,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    with pytest.raises(UserError, match="holds compressed numbers"):
        state_dict.read(tmp_path / "b.pt")


@pytest.fixture
def no_text(tmp_path):
    """A folder whose name is not UTF-8."""
    folder = tmp_path / os.fsdecode(b"b\xff\xfed")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes names that are text alone")
    return folder


def test_a_run_below_a_folder_whose_name_is_no_text(no_text, digits, monkeypatch):
    """With Visdom, where no server is; resumed; and on a report's page."""
    source = write_idx_folder(no_text, digits)
    monkeypatch.chdir(no_text)  # nothing on the command line shows it then
    config = dataclasses.replace(CONFIG, dataset=source, dtype="float64", run_dir=Path("run"))
    output = OutputOptions(visdom="auto", visdom_port=1, quiet=True)
    train_with(numpy_framework, config, output)
    more = dataclasses.replace(config, epochs=2, run_dir=no_text / "run")
    train_with(numpy_framework, more, output, resume=True)
    assert RecordedRun.load(no_text / "run").summary["steps"] == 12
    report_page.run(report_page.Report(runs=(Path("run"),), output=no_text / "report.html"))
    assert environment_name(no_text / "run").startswith("b_d_run_")


def test_in_an_ascii_locale_too(no_text, run):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    flags = ["--dtype", "float64", "--epochs", "0", "--visdom-port", "1", "--run-dir", no_text.name + "/é"]
    process = run("examples.numpy_side.train", *flags, env=ascii_only)
    assert process.returncode == 0, process.stderr
    assert (no_text / "é/summary.json").exists()
