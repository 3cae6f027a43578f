"""Runs that stop anywhere and go on, in this process: they must end with the bytes of those that never stopped."""

import dataclasses
import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from stopped_runs import EPOCHS, FRAMEWORK, STEPS, bytes_of, config_on, said, train
from tolerances import RUN_FLOAT64

from mlp_workload.errors import UserError
from mlp_workload.events import RunFinished, RunResumed
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.run.signals import Stopped
from mlp_workload.sinks.json_lines import read_events

side = pytest.mark.parametrize("side", FRAMEWORK)
AGAIN = pytest.mark.long("compiles all again for one more step")


@pytest.fixture(scope="module")
def unbroken(small, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of each framework's run that does not stop."""

    @functools.cache
    def run(side: str) -> Path:
        folder = tmp_path_factory.mktemp("unbroken") / side
        train(side, dataclasses.replace(config_on(small[1]), run_dir=folder))
        return folder

    return run


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
