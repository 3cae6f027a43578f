"""Real processes that are really stopped, on a small set, and on real MNIST.

On MNIST KILLS of each trainer are killed at random moments, and STOPS of each trainer and preset at random steps:
`make knocks` kills 200 and stops 80.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, TRAINERS, assert_one_line, in_a_small_file_system, trainers
from safetensors.numpy import load_file
from warm import python

from mlp_workload.config import PRESETS
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.sinks.json_lines import read_events

KILLS, STOPS = (int(os.environ.get(name, "1")) for name in ("KILLS", "STOPS"))
WHOLE = 10 if STOPS > 1 else 3
"""Epochs of a whole run of MNIST, of 300 steps each."""
EPOCHS, FOREVER = 2, 100_000
STEPS = 6
"""Steps of an epoch of the small set."""
COLD = pytest.mark.long("starts the real interpreter in a file system of its own")
RULE = ("--momentum", "0.9", "--nesterov", "--weight-decay", "0.01")


def start(trainer: str, folder: Path, *flags: str, epochs: int = EPOCHS) -> subprocess.Popen:
    rule = () if "--resume" in flags else RULE
    command = [python(), "-m", trainer, "--epochs", str(epochs), "--visdom", "off", *rule, *flags]
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Its status, and its errors, which end when it lets go of all files."""
    error = process.communicate(timeout=240)[1]
    return process.returncode, error


def wait_for(process: subprocess.Popen, run: Path, step: int = 0) -> None:
    """Until a checkpoint of this step or a later one is there."""
    while not list(run.glob("checkpoints/step*")) or newest_step(run) < step:
        time.sleep(0.01)
        assert process.poll() is None, finish(process)


def numbers(folder: Path) -> tuple[bytes, list]:
    """The weights, and what the run told of training and tests, without the clock's part."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    kept = [event for event in events if event["event"] in ("train_losses", "evaluated", "warned")]
    told = [{name: value for name, value in event.items() if name not in ("time", "seconds")} for event in kept]
    return (folder / "weights.safetensors").read_bytes(), told


@pytest.mark.parametrize(
    "trainer",
    [pytest.param("jax_mlp.train", marks=pytest.mark.long("compiles JAX's programs anew")), "reference_torch.train"],
    ids=["jax", "torch"],
)
def test_a_killed_run_goes_on_to_the_same_bytes(trainer, small, tmp_path):
    flags = [*small, "--checkpoint-every", "4"]
    process = start(trainer, tmp_path, *flags, "--run-dir", "run", epochs=FOREVER)
    wait_for(process, tmp_path / "run", 10)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    assert_goes_on_to_the_same_bytes(trainer, flags, tmp_path)


def assert_goes_on_to_the_same_bytes(trainer: str, flags: list[str], folder: Path) -> None:
    """Resumes it, and trains the same in one go, for an epoch or two more."""
    epochs = newest_step(folder / "run") // STEPS + 2
    assert finish(start(trainer, folder, "--resume", "run", epochs=epochs)) == (0, "")
    assert finish(start(trainer, folder, *flags, "--run-dir", "whole", epochs=epochs)) == (0, "")
    assert numbers(folder / "run") == numbers(folder / "whole")


def newest_step(run: Path) -> int:
    return max(int(path.stem.partition("-")[2]) for path in run.glob("checkpoints/step*"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Each trainer's run of MNIST that nothing happens to, and how long it took."""
    known = {}

    def run(trainer: str) -> tuple[Path, float]:
        if trainer not in known:
            folder = tmp_path_factory.mktemp("unbroken")
            for attempt in ("first", "run"):  # JAX keeps its programs: the second is as fast as those that are killed
                began = time.monotonic()
                status, error = finish(start(trainer, folder, "--checkpoint-every", "2", "--run-dir", attempt))
                assert status == 0, error
            known[trainer] = folder / "run", time.monotonic() - began
        return known[trainer]

    return run


@pytest.mark.long("trains two epochs of MNIST four times")
@trainers
def test_nothing_is_lost_by_kills_at_random_moments(trainer, unbroken, tmp_path):
    """SIGKILL somewhere in the life of a process that spends much of it writing: a checkpoint every two steps.

    What is on the disk is told, and so is what came of it; with -s it is seen.
    """
    whole, seconds = unbroken(trainer)
    expected = numbers(whole)
    moments, resumed = random.Random(trainer), 0
    for number in range(KILLS):
        run = tmp_path / f"run-{number}"
        process = start(trainer, tmp_path, "--checkpoint-every", "2", "--run-dir", run.name)
        moment = moments.uniform(0.1, 0.9) * seconds
        if number % 2 == 0:  # half of them in the midst of training
            wait_for(process, run)
            moment = moments.uniform(0.0, 0.4)
        time.sleep(moment)
        process.kill()
        status, _ = finish(process)
        had = {path.name for path in (run / "checkpoints").glob("*")}
        begun, whole_ones = (run / "config.json").exists(), sorted(name for name in had if name.startswith("step"))
        halves = len(had) - len(whole_ones)
        if not whole_ones:
            if begun:
                assert_refused(trainer, run)
            outcome = "nothing to go on from: no step's checkpoint was written yet"
        elif (run / "summary.json").exists():
            outcome = "finished before the kill"
            assert numbers(run) == expected
            assert RecordedRun.load(run).summary is not None
        else:
            ended, error = finish(start(trainer, tmp_path, "--resume", run.name))
            assert (ended, error) == (0, ""), error
            assert numbers(run) == expected
            assert [path.name for path in run.rglob(".*")] == [], "what was left half-written is gone"
            outcome, resumed = "resumed, the same bytes", resumed + 1
        print(f"{trainer:22} {moment:5.2f} s  {', '.join(whole_ones) or '-':60} {halves} half-written  {outcome}")
        assert status in (0, -signal.SIGKILL)
    assert resumed


BOTH_PRESETS = [(trainer, preset) for trainer in TRAINERS.values() for preset in PRESETS]


@pytest.mark.long("trains three epochs of MNIST three times")
@pytest.mark.parametrize(("trainer", "preset"), BOTH_PRESETS if STOPS > 1 else BOTH_PRESETS[2:3])
def test_a_run_that_ends_at_a_random_step_of_a_whole_run_goes_on_from_it(trainer, preset, tmp_path):
    """SIGKILL once the checkpoint of that step is there, in the last two thirds, mostly within an epoch."""
    last = 300 * WHOLE

    def begin(run: str, *flags: str) -> subprocess.Popen:
        return start(trainer, tmp_path, "--preset", preset, "--run-dir", run, *flags, epochs=WHOLE)

    assert finish(begin("whole")) == (0, "")
    expected, steps = numbers(tmp_path / "whole"), random.Random(f"{trainer} {preset}")
    for number in range(STOPS):
        run, every = tmp_path / f"run-{number}", steps.randrange(50, 300)
        step = every * steps.randrange(-(-last // (3 * every)), -(-last // every))
        process = begin(run.name, "--checkpoint-every", str(every))
        wait_for(process, run, step)
        process.kill()
        finish(process)
        newest = max(path.name for path in (run / "checkpoints").glob("step*"))
        assert not (run / "summary.json").exists()
        assert finish(start(trainer, tmp_path, "--resume", run.name, epochs=WHOLE)) == (0, "")
        assert numbers(run) == expected
        ends = [folder / f"checkpoints/step-{last:08d}.safetensors" for folder in (tmp_path / "whole", run)]
        (one, other) = map(load_file, ends)
        assert one.keys() == other.keys() > {"layers.0.weight.momentum"}
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)
        print(f"{trainer:22} {preset:6} went on from {newest} to the same bytes")


def assert_refused(trainer: str, run: Path) -> None:
    ended, error = finish(start(trainer, run.parent, "--resume", run.name))
    assert ended == 2
    assert re.search(r"--resume run-\d+: (it has no checkpoint|config.json is damaged)", error), error


@pytest.mark.parametrize(
    ("trainer", "number", "status"),
    [
        pytest.param("jax_mlp.train", signal.SIGTERM, 143, marks=pytest.mark.long("compiles four programs")),
        ("reference_torch.train", signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_a_run_with_a_checkpoint_and_the_usual_status(trainer, number, status, small, tmp_path):
    process = start(trainer, tmp_path, *small, "--checkpoint-every", "7", "--run-dir", "run", epochs=FOREVER)
    wait_for(process, tmp_path / "run", 1)
    process.send_signal(number)
    ended, error = finish(process)
    assert ended == status
    said, stopped = error.splitlines()
    assert said.startswith(f"{number.name}: stops when the running program ends")
    step = int(re.search(r"stopped after step (\d+); --resume run goes on from step \1$", stopped)[1])
    assert step > 0
    assert (tmp_path / f"run/checkpoints/step-{step:08d}.safetensors").exists()
    assert_goes_on_to_the_same_bytes(trainer, small, tmp_path)


@pytest.mark.long("compiles two programs, and trains with MNIST's 60,000 batches of one example")
@pytest.mark.parametrize("number", [signal.SIGINT])
def test_a_second_signal_ends_a_run_at_once(number, tmp_path):
    """With an epoch of 60,000 steps, which takes long enough for both to come within it; what was kept stays."""
    flags = ["--batch-size", "1", "--checkpoint-every", "60000"]
    process = start("jax_mlp.train", tmp_path, *flags, "--run-dir", "run")
    wait_for(process, tmp_path / "run")
    process.send_signal(number)
    assert process.stderr.readline().startswith(f"{number.name}: stops when the running program ends")
    process.send_signal(number)
    ended, error = finish(process)
    assert ended == -number, error
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000000.safetensors"]


def test_ctrl_c_before_a_pipe_that_ends_keeps_the_run(small, tmp_path):
    """As with `2>&1 | tee`, which ends at once by the same Ctrl-C: nobody to tell, and a checkpoint all the same."""
    process = start("reference_torch.train", tmp_path, *small, "--run-dir", "run", epochs=FOREVER)
    wait_for(process, tmp_path / "run")
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    last = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())[-1]
    assert last > "step-00000000.safetensors"


def test_two_processes_are_never_at_one_run(small, tmp_path):
    process = start("reference_torch.train", tmp_path, *small, "--run-dir", "run", epochs=FOREVER)
    wait_for(process, tmp_path / "run")
    for other in ("jax_mlp.train", "reference_torch.train"):
        ended, error = finish(start(other, tmp_path, "--resume", "run"))
        assert ended == 2
        assert error.splitlines() == [f"python -m {other}: error: run: another process is at this run"]
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143


@pytest.mark.parametrize("trainer", ["reference_torch.train"])
def test_a_relative_path_after_a_change_of_directory(trainer, small, tmp_path):
    (tmp_path / "data").symlink_to(small[1].removeprefix("idx:"))
    (tmp_path / "deeper").mkdir()
    flags = [*small[2:], "--dataset", "idx:data", "--run-dir", "run", "--epochs", "1"]
    assert finish(start(trainer, tmp_path, *flags)) == (0, "")
    again = ["--resume", "../run", "--epochs", "2"]
    ended, error = finish(start(trainer, tmp_path / "deeper", *again))
    assert ended == 2
    assert "error: --dataset idx:data: no " in error
    assert finish(start(trainer, tmp_path / "deeper", *again, "--dataset", "idx:../data")) == (0, "")


@pytest.mark.parametrize("trainer", ["reference_torch.train"])
def test_resume_refuses_what_makes_no_sense(trainer, run, small, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text('{"preset": "leaky"')
    for flags, message in {
        "--resume nowhere": "--resume nowhere: no such run folder",
        "--resume empty": "--resume empty: no run there",
        "--resume damaged": "--resume damaged: config.json is damaged",
        "--resume ~nosuchuser/x": "home directory",
        "--checkpoint-every 0": "--checkpoint-every must be at least 1, got 0",
    }.items():
        assert_one_line(run(trainer, *flags.split()), message)
    assert run(trainer, *small, "--epochs", "1", "--run-dir", "done", "--quiet", "--visdom", "off").returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "done").rglob("*") if path.is_file()}
    for flags, message in {
        "--resume done": "--resume done: the run is finished after 1 epochs; a higher --epochs goes on",
        "--resume done --epochs 0": "--resume done: the run is finished after 1 epochs",
        "--resume done --run-dir other": "--run-dir other: a run that is resumed stays in its folder",
        "--resume done --seeds 2": "--resume-or-start and --checkpoint-every are for one run, not for --seeds",
        "--resume done --epochs 2 --seed 1 --hidden 5": "--seed 1, it began with 0; --hidden .*, it began with",
        "--resume done --epochs 2 --preset relu": "--preset relu, it began with leaky",
    }.items():
        assert_one_line(run(trainer, *flags.split()), message)
    assert {path: path.read_bytes() for path in (tmp_path / "done").rglob("*") if path.is_file()} == before


@COLD
@trainers
def test_a_disk_too_full_for_checkpoints_costs_only_them(trainer, small, tmp_path):
    """Room for the weights, the events, and two checkpoints and a half: the run ends as if nothing had been."""
    flags = [*small, "--hidden", "200", "200", "--quiet", "--checkpoint-every", "5"]
    rescued, whole, mounted = (tmp_path / name for name in ("rescued", "whole", "mounted"))
    assert finish(start(trainer, tmp_path, *flags, "--run-dir", "whole"))[0] == 0
    mounted.mkdir()
    process = in_a_small_file_system(
        f"""
        {sys.executable} -m {trainer} --epochs {EPOCHS} {" ".join([*RULE, *flags])} --visdom off --run-dir run
        echo $?; ls run/checkpoints; cp run/weights.safetensors {rescued}
        """,
        mounted,
        "1170k",
    )
    status, *checkpoints = process.stdout.split()
    assert status == "0", process.stderr
    assert checkpoints == ["step-00000000.safetensors", "step-00000005.safetensors"]
    (warning,) = [line for line in process.stderr.splitlines() if "checkpoint" in line]
    assert re.search(
        r"warning: no checkpoint of step 10: cannot write .* No space left on device; the run goes on", warning
    )
    assert rescued.read_bytes() == (whole / "weights.safetensors").read_bytes()


@pytest.mark.long("imports a framework within a file system of its own")
def test_a_run_in_a_folder_that_became_read_only(small, tmp_path):
    assert finish(start("reference_torch.train", tmp_path, *small, "--run-dir", "run"))[0] == 0
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    process = in_a_small_file_system(
        f"""
        cp -r ../run run
        mount -o remount,ro {mounted}
        {sys.executable} -m jax_mlp.train --epochs 4 --visdom off --quiet --resume run
        echo $?
        """,
        mounted,
        "20000k",
    )
    assert process.stdout.split() == ["2"], process.stderr
    last = process.stderr.splitlines()[-1]
    assert re.search(r"error: cannot write .*run.*: Read-only file system", last)
    assert "Traceback" not in process.stderr


@pytest.mark.long("kills and resumes runs of both trainers")
def test_a_resumed_run_tells_its_steps_once(small, tmp_path):
    """After kills and resumes by both trainers in turn the events have each step once, in order."""
    flags, run = [*small, "--run-dir", "run"], tmp_path / "run"
    for number, side in enumerate(("jax_mlp.train", "reference_torch.train"), 1):
        process = start(side, tmp_path, *flags, "--checkpoint-every", "4", epochs=FOREVER)
        wait_for(process, run, 10 * number)
        process.kill()
        finish(process)
        flags, epochs = ["--resume", "run"], newest_step(run) // STEPS + 2
    assert finish(start("jax_mlp.train", tmp_path, *flags, epochs=epochs))[0] == 0
    losses = [event for event in read_events(tmp_path / "run/events.jsonl") if hasattr(event, "losses")]
    assert [(event.epoch, event.first_step, len(event.losses)) for event in losses] == [
        (epoch, STEPS * (epoch - 1) + 1, STEPS) for epoch in range(1, epochs + 1)
    ]
