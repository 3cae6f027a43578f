"""Runs that stop anywhere and go on, in this process: they must end with the bytes of those that never stopped."""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import train_with, write_idx_folder
from safetensors.numpy import load_file, save_file
from tolerances import RUN_FLOAT64

import jax_mlp.train
import reference_torch.train
from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import UserError
from mlp_workload.events import RunFinished, RunResumed
from mlp_workload.files import read_safetensors
from mlp_workload.run import checkpoint, session
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.run.signals import Stopped
from mlp_workload.sinks.json_lines import read_events

UNWATCHED = OutputOptions(visdom="off", quiet=True)
FRAMEWORK = {"jax": jax_mlp.train.framework, "torch": reference_torch.train.framework}
side = pytest.mark.parametrize("side", FRAMEWORK)
AGAIN = pytest.mark.long("compiles all again for one more step")
EPOCHS, STEPS = 2, 6
"""103 examples in batches of 20: five full ones and one of three."""


def config_on(source: str) -> Config:
    small = {"hidden": (8, 6), "batch_size": 20, "learning_rate": 0.1, "momentum": 0.9, "nesterov": True}
    return dataclasses.replace(PRESETS["relu"], dataset=source, epochs=EPOCHS, weight_decay=0.01, **small)


@pytest.fixture
def config(tmp_path, digits) -> Config:
    (tmp_path / "digits").mkdir()
    return config_on(write_idx_folder(tmp_path / "digits", digits))


@pytest.fixture(scope="module")
def unbroken(small, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of each framework's run that does not stop."""

    @functools.cache
    def run(side: str) -> Path:
        folder = tmp_path_factory.mktemp("unbroken") / side
        train(side, dataclasses.replace(config_on(small[1]), run_dir=folder))
        return folder

    return run


def train(side: str, config: Config, every: int = 1000, resume: bool = False, stop_at: int | None = None,
          signals: tuple[int, ...] = (signal.SIGTERM,)):  # fmt: skip
    """As the command does; after `stop_at` steps the process sends itself the `signals`."""

    @contextlib.contextmanager
    def stopping(config):
        with FRAMEWORK[side](config) as make:

            def make_trainer(*arguments):
                trainer = make(*arguments)
                train_steps, trained = trainer.train_steps, 0

                def counted(order, first, last):
                    nonlocal trained
                    losses = train_steps(order, first, last)
                    trained += last - first
                    if trained == stop_at:
                        for number in signals:
                            os.kill(os.getpid(), number)
                    return losses

                trainer.train_steps = counted
                return trainer

            yield make_trainer

    return train_with(stopping, config, UNWATCHED, every, resume)


def bytes_of(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def said(folder: Path) -> list:
    """What a run told, without what depends on the clock."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    numbers = ("train_losses", "evaluated", "warned")
    kept = [event for event in events if event["event"] in numbers]
    return [{name: value for name, value in event.items() if name not in ("time", "seconds")} for event in kept]


@pytest.mark.parametrize(
    ("side", "stop_at"),
    [
        ("jax", 5),
        pytest.param("jax", 6, marks=AGAIN),
        pytest.param("jax", 1, marks=AGAIN),
        pytest.param("jax", 11, marks=AGAIN),
    ]
    + [("torch", step) for step in range(1, EPOCHS * STEPS)],
)
def test_a_run_that_stopped_after_any_step_ends_as_if_it_had_not(side, stop_at, config, unbroken, tmp_path, capfd):
    stopped = dataclasses.replace(config, run_dir=tmp_path / "stopped")
    with pytest.raises(Stopped, match=f"stopped after step {stop_at}; --resume {stopped.run_dir} goes on") as caught:
        train(side, stopped, every=1, stop_at=stop_at)
    assert caught.value.signal == signal.SIGTERM
    assert "SIGTERM: stops when the running program ends" in capfd.readouterr().err
    assert not (stopped.run_dir / "summary.json").exists()
    got = train(side, stopped, resume=True)
    assert bytes_of(stopped.run_dir) == bytes_of(unbroken(side))
    assert said(stopped.run_dir) == said(unbroken(side))
    (resumed,) = [event for event in read_events(stopped.run_dir / "events.jsonl") if isinstance(event, RunResumed)]
    assert resumed.step == stop_at
    for name in ("steps", "test_correct", "test_loss", "article_test_loss", "lost_classes"):
        assert got[name] == RecordedRun.load(unbroken(side)).summary[name]
    assert RecordedRun.load(stopped.run_dir).summary == got
    assert sorted(path.name for path in stopped.run_dir.iterdir()) == [
        "checkpoints", "config.json", "events.jsonl", "summary.json", "weights.safetensors"
    ]  # fmt: skip


def test_signals_of_several_kinds_stop_a_run_once(config, tmp_path, capfd):
    """As from a service manager, or of a terminal that is closed after a kill: the first to be answered is told."""
    config = dataclasses.replace(config, run_dir=tmp_path / "run")
    with pytest.raises(Stopped, match=r"stopped after step 4; --resume .* goes on from step 4"):
        train("jax", config, every=1, stop_at=4, signals=(signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
    assert "Traceback" not in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("side", ["torch", pytest.param("jax", marks=AGAIN)])
def test_a_run_can_stop_again_and_again(side, config, unbroken, tmp_path):
    stopped = dataclasses.replace(config, run_dir=tmp_path / "stopped")
    resume = False
    for _ in range(2):
        with pytest.raises(Stopped):
            train(side, stopped, every=1, resume=resume, stop_at=4)
        resume = True
    train(side, stopped, resume=True)
    assert bytes_of(stopped.run_dir) == bytes_of(unbroken(side))
    assert said(stopped.run_dir) == said(unbroken(side))


@pytest.mark.parametrize(("first", "second"), [pytest.param("jax", "torch", marks=AGAIN), ("torch", "jax")])
def test_the_other_framework_finishes_a_run(first, second, config, tmp_path):
    config = dataclasses.replace(config, dtype="float64")
    whole, handed = (dataclasses.replace(config, run_dir=tmp_path / name) for name in ("whole", "handed"))
    start = train(first, dataclasses.replace(whole, epochs=0))
    assert start["steps"] == 0
    begun = tmp_path / "begun.safetensors"
    (whole.run_dir / "weights.safetensors").rename(begun)
    for one in (first, second):
        train(one, dataclasses.replace(config, run_dir=tmp_path / f"unbroken-{one}", initial_weights=begun))
    with pytest.raises(Stopped):
        train(first, dataclasses.replace(handed, initial_weights=begun), every=1, stop_at=8)
    summary = train(second, dataclasses.replace(handed, initial_weights=begun), resume=True)
    assert summary["before"] == [{"framework": first, "device": "cpu", "from_step": 0}]
    assert summary["total_seconds"] > summary["train_seconds"] + summary["evaluate_seconds"]
    assert summary["framework"] == second
    assert RecordedRun.load(handed.run_dir).framework == first
    finished = load_file(handed.run_dir / "weights.safetensors")
    for one in (first, second):
        for name, array in load_file(tmp_path / f"unbroken-{one}/weights.safetensors").items():
            RUN_FLOAT64.assert_close(finished[name], array)


@side
def test_a_finished_run_goes_on_for_more_epochs(side, config, tmp_path):
    whole, more = (dataclasses.replace(config, run_dir=tmp_path / name) for name in ("whole", "more"))
    train(side, dataclasses.replace(whole, epochs=3))
    train(side, dataclasses.replace(more, epochs=1))
    with pytest.raises(UserError, match="the run is finished after 1 epochs; a higher --epochs goes on"):
        train(side, dataclasses.replace(more, epochs=1), resume=True)
    summary = train(side, dataclasses.replace(more, epochs=3), resume=True)
    assert summary["steps"] == 3 * STEPS
    assert bytes_of(more.run_dir) == bytes_of(whole.run_dir)
    assert said(more.run_dir)[-2:] == said(whole.run_dir)[-2:]
    assert json.loads((more.run_dir / "config.json").read_text())["epochs"] == 3
    assert sum(isinstance(event, RunFinished) for event in read_events(more.run_dir / "events.jsonl")) == 1


@side
def test_a_run_killed_between_its_last_checkpoint_and_its_summary_is_finished(side, config, tmp_path):
    config = dataclasses.replace(config, run_dir=tmp_path / "run")
    expected = train(side, config)
    weights = bytes_of(config.run_dir)
    for name in ("summary.json", "weights.safetensors"):
        (config.run_dir / name).unlink()
    lines = (config.run_dir / "events.jsonl").read_bytes().splitlines(keepends=True)
    (config.run_dir / "events.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    got = train(side, config, resume=True)
    assert bytes_of(config.run_dir) == weights
    for name in ("steps", "test_correct", "test_loss", "article_test_loss", "lost_classes"):
        assert got[name] == expected[name]


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
