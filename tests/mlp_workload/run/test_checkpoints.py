"""Checkpoints that are damaged, foreign or gone, and what a run goes on from then."""

import dataclasses
import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from stopped_runs import EPOCHS, bytes_of, said, train

from mlp_workload.config import Config
from mlp_workload.errors import UserError
from mlp_workload.files import read_safetensors
from mlp_workload.run import checkpoint, inputs, session
from mlp_workload.run.signals import Stopped


@pytest.fixture
def stopped(config, tmp_path):
    """A run with two checkpoints, of steps 7 and 8."""
    config = dataclasses.replace(config, run_dir=tmp_path / "run")
    with pytest.raises(Stopped):
        train("torch", config, every=1, stop_at=8)
    names = [path.name for path in sorted((config.run_dir / "checkpoints").iterdir())]
    assert names == ["step-00000007.safetensors", "step-00000008.safetensors"]
    return config


def newest(config: Config) -> Path:
    return config.run_dir / "checkpoints/step-00000008.safetensors"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("place", [5, 40, 200, 900, 2000, -1])
def test_a_flipped_bit_anywhere_is_found_and_the_checkpoint_before_is_taken(place, stopped, tmp_path, capfd):
    train("torch", dataclasses.replace(stopped, run_dir=tmp_path / "whole"))
    flip(newest(stopped), place)
    train("torch", stopped, resume=True)
    assert re.search(r"warning: .*step-00000008.safetensors.*; going on from step 7", capfd.readouterr().err)
    assert bytes_of(stopped.run_dir) == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("size", [0, 7, 100, 2000])
def test_a_truncated_checkpoint_is_passed_over(size, stopped, tmp_path, capfd):
    train("torch", dataclasses.replace(stopped, run_dir=tmp_path / "whole"))
    os.truncate(newest(stopped), size)
    train("torch", stopped, resume=True)
    assert "going on from step 7" in capfd.readouterr().err
    assert bytes_of(stopped.run_dir) == bytes_of(tmp_path / "whole")


def rewritten(path: Path, tensors=None, **about) -> None:
    """The checkpoint with other content and a digest that fits it, as only somebody who knows how could make it."""
    old, metadata = read_safetensors(path, "checkpoint")
    text = json.dumps(json.loads(metadata["checkpoint"]) | about)
    tensors = old | (tensors or {})
    save_file(tensors, path, {"checkpoint": text, "digest": checkpoint._digest(text, tensors)})


def not_finite(stopped):
    tensors, _ = read_safetensors(newest(stopped), "checkpoint")
    bias = tensors["layers.1.bias"].copy()
    bias[2] = np.nan
    rewritten(newest(stopped), {"layers.1.bias": bias})


def relined(stopped, *numbers: int) -> None:
    """Its events are those lines of what they were: a start, the losses of epoch 1, the test after it."""
    events = stopped.run_dir / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    events.write_text("".join(lines[number] for number in numbers))


def no_folder(stopped):
    shutil.rmtree(stopped.run_dir / "checkpoints")
    (stopped.run_dir / "checkpoints").touch()


REFUSED = {
    "newer": (lambda stopped: rewritten(newest(stopped), format=9), "has format 9, this version reads up to 1"),
    "extra": (
        lambda stopped: rewritten(newest(stopped), {"layers.9.bias": np.zeros(3, np.float32)}),
        "the checkpoint of step 8: layers.9.bias is not a parameter of this model",
    ),
    "misshapen": (
        lambda stopped: rewritten(newest(stopped), {"layers.0.bias": np.zeros(3, np.float32)}),
        r"layers.0.bias has shape \(3,\), expected \(8,\)",
    ),
    "nan": (not_finite, r"layers.1.bias holds nan at \(2,\)"),
    "dtype": (
        lambda stopped: rewritten(newest(stopped), {"layers.0.bias": np.zeros(8)}),
        "layers.0.bias is float64, expected float32",
    ),
    "newer and damaged": (
        lambda stopped: [rewritten(path, format=9) for path in newest(stopped).parent.iterdir()],
        "has format 9, this version reads up to 1",
    ),
    "both damaged": (
        lambda stopped: [os.truncate(path, 50) for path in newest(stopped).parent.iterdir()],
        "step-00000008.safetensors: .*; .*step-00000007.safetensors: ",
    ),
    "none": (lambda stopped: [path.unlink() for path in newest(stopped).parent.iterdir()], "it has no checkpoint"),
    "a folder": (
        lambda stopped: newest(stopped).with_name("step-00000099.safetensors").mkdir(),
        "step-00000099.safetensors: not a file but a folder; this checkpoint is neither skipped nor removed",
    ),
    "no folder": (no_folder, r"checkpoints cannot be read \(Not a directory\)"),
    "events gone": (lambda stopped: os.truncate(stopped.run_dir / "events.jsonl", 0), "the run's start is missing"),
    "events short": (
        lambda stopped: (stopped.run_dir / "events.jsonl").write_bytes(
            b"".join((stopped.run_dir / "events.jsonl").read_bytes().splitlines(keepends=True)[:1])
        ),
        "ends after step 0, and the checkpoint is of step 8",
    ),
    "events lack losses": (lambda stopped: relined(stopped, 0, 2), "a test at step 6 comes behind step 0, and the ch"),
    "events have losses twice": (lambda stopped: relined(stopped, 0, 1, 1, 2), "step 1 comes behind step 6"),
    "events lack a test": (
        lambda stopped: relined(stopped, 0, 1),
        "ends after step 0, and the checkpoint is of step 8",
    ),
    "events lack the start": (lambda stopped: relined(stopped, 1, 2), "the run's start is missing"),
    "events start twice": (lambda stopped: relined(stopped, 0, 0, 1, 2), "the run starts twice"),
    "a summary of nothing": (
        lambda stopped: (stopped.run_dir / "summary.json").write_text("[]"),
        "summary.json does not say its steps; without that file the run goes on",
    ),
    "a summary of a word": (
        lambda stopped: (stopped.run_dir / "summary.json").write_text('{"steps": true}'),
        "summary.json does not say its steps",
    ),
    "other data": (
        lambda stopped: flip(Path(stopped.dataset.removeprefix("idx:"), "train-images-idx3-ubyte"), -1),
        "--dataset idx:.* is not what the run was trained on",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_run_cannot_go_on_from_is_refused_and_left_alone(name, stopped):
    spoil, message = REFUSED[name]
    spoil(stopped)
    before = {path: path.read_bytes() for path in stopped.run_dir.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        train("torch", stopped, resume=True)
    assert {path: path.read_bytes() for path in stopped.run_dir.rglob("*") if path.is_file()} == before


def test_files_of_others_are_neither_taken_nor_removed(stopped):
    """Copies of checkpoints too, whatever they are called."""
    folder = stopped.run_dir / "checkpoints"
    names = ("step-00000008.backup.safetensors", "step-00000008 (1).safetensors", "step-best.safetensors", ".notes.tmp")
    for name in names:
        (folder / name).write_bytes(newest(stopped).read_bytes())
    (stopped.run_dir / ".notes.tmp").write_text("mine")
    half_written = folder / ".step-00000009.safetensors.12345.tmp"
    half_written.write_bytes(b"half")
    train("torch", stopped, every=1, resume=True)
    assert not half_written.exists()
    assert (stopped.run_dir / ".notes.tmp").read_text() == "mine"
    own = {"step-00000011.safetensors", "step-00000012.safetensors"}
    assert {path.name for path in folder.iterdir()} == {*names} | own


def test_events_that_nobody_may_write_change_nothing(stopped, monkeypatch):
    def refused(path):
        raise UserError(f"cannot write {path}: Permission denied")

    monkeypatch.setattr(session, "check_can_change", refused)  # root, as whom tests may run, may write everywhere
    before = {path: path.read_bytes() for path in stopped.run_dir.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"cannot write .*events.jsonl: Permission denied"):
        train("torch", dataclasses.replace(stopped, epochs=9), resume=True)
    assert {path: path.read_bytes() for path in stopped.run_dir.rglob("*") if path.is_file()} == before


def test_what_stands_behind_the_synced_events_is_let_go(stopped, tmp_path):
    """As after a power cut: zeros, and a line's end somewhere behind them."""
    train("torch", dataclasses.replace(stopped, run_dir=tmp_path / "whole"))
    with (stopped.run_dir / "events.jsonl").open("ab") as file:
        file.write(bytes(100) + b'"}\n{}\n')
    train("torch", stopped, resume=True)
    assert said(stopped.run_dir) == said(tmp_path / "whole")


def test_a_finished_run_is_safe_whatever_became_of_its_checkpoints(config, tmp_path):
    config = dataclasses.replace(config, run_dir=tmp_path / "run")
    train("torch", config, every=3)
    for path in sorted((config.run_dir / "checkpoints").iterdir())[1:]:
        path.unlink()
    before = {path: path.read_bytes() for path in config.run_dir.rglob("*") if path.is_file()}
    for epochs in (1, EPOCHS):
        with pytest.raises(UserError, match=rf"the run is finished after {EPOCHS} epochs"):
            train("torch", dataclasses.replace(config, epochs=epochs), resume=True)
    assert {path: path.read_bytes() for path in config.run_dir.rglob("*") if path.is_file()} == before


def test_a_run_of_no_epochs_goes_on_too(config, tmp_path):
    whole, more = (dataclasses.replace(config, run_dir=tmp_path / name) for name in ("whole", "more"))
    train("torch", whole)
    train("torch", dataclasses.replace(more, epochs=0))
    train("torch", more, resume=True)
    assert bytes_of(more.run_dir) == bytes_of(whole.run_dir)


def test_a_stop_without_room_for_a_checkpoint_saves_the_weights(config, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    config = dataclasses.replace(config, run_dir=tmp_path / "run")
    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(Stopped, match="stopped after step 4; no checkpoint; the weights of now are in"):
        train("torch", config, every=1, stop_at=4)
    assert (config.run_dir / "weights.safetensors").exists()


def test_what_may_not_change_is_named(stopped):
    changed = dataclasses.replace(stopped, seed=3, learning_rate=0.2, epochs=9)
    with pytest.raises(UserError, match=r"--learning-rate 0.2, it began with 0.1; --seed 3, it began with 0$"):
        train("torch", changed, resume=True)
    with pytest.raises(UserError, match=r"--initial-weights start.safetensors, it began with None$"):
        train("torch", dataclasses.replace(stopped, initial_weights=Path("start.safetensors")), resume=True)
    with pytest.raises(UserError, match="the run is in epoch 2 already: --epochs must be at least that, got 1"):
        train("torch", dataclasses.replace(stopped, epochs=1), resume=True)


def test_data_and_run_may_have_moved(stopped, tmp_path):
    train("torch", dataclasses.replace(stopped, run_dir=tmp_path / "whole"))
    (tmp_path / "digits").rename(tmp_path / "moved")
    stopped.run_dir.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="if the run's data are elsewhere now, name the folder: --dataset idx:DIR"):
        train("torch", dataclasses.replace(stopped, run_dir=tmp_path / "elsewhere"), resume=True)
    moved = dataclasses.replace(stopped, run_dir=tmp_path / "elsewhere", dataset=f"idx:{tmp_path / 'moved'}")
    train("torch", moved, resume=True)
    assert bytes_of(moved.run_dir) == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize(("source", "resume"), [("idx:nowhere", True), ("idx:nowhere", False), ("tfds:mnist", True)])
def test_only_a_run_that_goes_on_from_a_folder_is_told_to_name_another(source, resume, monkeypatch):
    def load(*_):
        raise UserError("it is gone")

    monkeypatch.setattr(inputs, "load", load)
    with pytest.raises(UserError, match=r"^--dataset it is gone") as caught:
        inputs.load_dataset(Config(dataset=source), resume)
    assert ("name the folder" in str(caught.value)) == (source == "idx:nowhere" and resume)


def test_a_clock_that_was_set_back_changes_nothing(stopped, tmp_path):
    """What is written already then lies in the future."""
    train("torch", dataclasses.replace(stopped, run_dir=tmp_path / "whole"))
    events = stopped.run_dir / "events.jsonl"
    events.write_text(re.sub(r'"time": \d+', '"time": 9999999999', events.read_text()))
    for path in [events, *newest(stopped).parent.iterdir()]:
        os.utime(path, (9999999999, 9999999999))
    os.utime(newest(stopped), (1, 1))
    train("torch", stopped, resume=True)
    assert bytes_of(stopped.run_dir) == bytes_of(tmp_path / "whole")


def test_no_checkpoint_is_kept_of_a_run_that_diverged(config, tmp_path):
    config = dataclasses.replace(config, learning_rate=1e30, run_dir=tmp_path / "run")
    train("torch", config, every=1)
    steps = [path.name for path in (config.run_dir / "checkpoints").glob("*")]
    assert all(checkpoint.load(config.run_dir / "checkpoints" / name).is_finite for name in steps)
    assert "step-00000012.safetensors" not in steps
