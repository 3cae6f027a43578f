"""One run by several real processes: the numbers of one, told and kept by the first alone, and an end together."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
import torch
from helpers import (
    ROOT,
    TRAINERS,
    assert_one_line,
    ends,
    free_port,
    processes,
    slurm_step,
    variables_of_torchrun,
    write_idx_folder,
)
from on_devices import BATCH, part_of_mnist
from safetensors.numpy import load_file
from tolerances import DEVICES_FLOAT64, RUN_FLOAT64

import jax_mlp.train
import jax_mlp.trainer
import reference_torch.train
import reference_torch.trainer
from jax_mlp import distributed
from mlp_compare.bench.processes import environment
from mlp_workload.batches import epoch_order
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import PRESETS, Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.run import process_group
from mlp_workload.run.checkpoint import Checkpoints
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.weights import save_weights
from reference_torch.data_parallel import DataParallelTrainer
from reference_torch.distributed import ProcessGroup

UNWATCHED = OutputOptions(visdom="off", quiet=True)
TRAIN = {"jax": jax_mlp.train.train, "torch": reference_torch.train.train}
TRAINER = {"jax": jax_mlp.trainer.Trainer, "torch": reference_torch.trainer.Trainer}
side = pytest.mark.parametrize("side", TRAINERS)
SLOW_JAX = pytest.mark.long("compiles JAX's programs in two processes")
FOREVER = ("--epochs", "100000", "--run-dir", "run")
STEPS = 6
"""Of an epoch."""
DEADLINE = 60
"""Seconds in which the other processes of a run end after one was killed."""


def is_trained(folder: Path, step: int) -> bool:
    return any(path.name > f"step-{step:08d}" for path in folder.glob("checkpoints/step-*"))


def wait_until_trained(started, folder: Path, step: int = 1) -> None:
    while not is_trained(folder, step):
        time.sleep(0.01)
        assert [process.poll() for process in started] == [None] * len(started), ends(started)


@pytest.fixture
def flags(small) -> list[str]:
    """Flags of a run by two processes, of many short epochs, the last batch of which they can't share evenly."""
    return [*small, "--dtype", "float64", "--momentum", "0.9", "--devices", "2"]


TRAIN_AND_LIST_THREADS = """
from pathlib import Path
from reference_torch.train import main

main()
for thread in Path("/proc/self/task").iterdir():
    print((thread / "comm").read_text().strip())
"""


@pytest.mark.long("starts two real interpreters, which import torch's compiler")
def test_no_thread_of_torchs_process_group_is_left_after_a_run(small, tmp_path):
    """One that is left may crash or hang the interpreter's end."""
    command = [sys.executable, "-c", TRAIN_AND_LIST_THREADS, *small, "--devices", "2", "--run-dir", "run"]
    port, pipe = free_port(), subprocess.PIPE
    started = [
        subprocess.Popen(
            [*command, "--visdom", "off"],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | variables_of_torchrun(port, process),
            cwd=tmp_path, stdout=pipe, stderr=pipe, text=True,
        )
        for process in (0, 1)
    ]  # fmt: skip
    for status, out, errors in ends(started):
        assert status == 0, errors
        assert "gloo" not in out


@pytest.mark.long("starts four processes, for 100 steps of MNIST each")
@pytest.mark.parametrize(("side", "preset"), [("jax", "leaky"), ("torch", "relu")])
def test_two_processes_end_100_steps_of_mnist_as_one(side, preset, run, tmp_path):
    """In PyTorch by torchrun."""
    config = dataclasses.replace(PRESETS[preset], dtype="float64", batch_size=BATCH)
    assert_end_as_one(side, config, part_of_mnist(), tmp_path, run if side == "torch" else None)


@pytest.mark.parametrize("side", ["torch", pytest.param("jax", marks=SLOW_JAX)])
def test_two_processes_end_as_one(side, digits, tmp_path):
    small = {"hidden": (8, 6), "batch_size": 20, "learning_rate": 0.1, "momentum": 0.9, "label_smoothing": 0.1}
    config = dataclasses.replace(PRESETS[{"jax": "relu", "torch": "leaky"}[side]], dtype="float64", **small)
    assert_end_as_one(side, config, digits, tmp_path)


def assert_end_as_one(side: str, config: Config, dataset: Dataset, tmp_path: Path, torchrun=None) -> None:
    """After an epoch from given weights; the first process alone prints and writes."""
    initial = initial_parameters(config.initialization, config.widths(dataset.pixels, dataset.classes), 3)
    save_weights(tmp_path / "start.safetensors", initial)
    steps, data = -(-len(dataset.train) // config.batch_size), tmp_path / "data"
    data.mkdir()
    flags = ["--preset", config.preset, "--dtype", "float64", "--epochs", "1", "--devices", "2", "--run-dir", "run"]
    flags += ["--dataset", write_idx_folder(data, dataset), "--batch-size", str(config.batch_size), "--hidden"]
    flags += [*map(str, config.hidden), "--learning-rate", str(config.learning_rate), "--momentum"]
    flags += [
        str(config.momentum),
        "--label-smoothing",
        str(config.label_smoothing),
        "--initial-weights",
        "start.safetensors",
        "--visdom",
        "off",
    ]
    if torchrun is None:
        with processes(side, tmp_path, *flags) as started:
            (first, told, warned), other = ends(started)
        assert (first, warned, other) == (0, "", (0, "", ""))
    else:
        command = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), "-m"]
        process = torchrun(*command, "reference_torch.train", *flags)
        told = process.stdout
        assert process.returncode == 0, process.stderr
    assert re.findall(r"^epoch +(\d+) +step +(\d+)", told, re.M) == [("1", str(steps))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run", "start.safetensors"]

    alone = TRAINER[side](config, dataset, initial)
    losses = alone.train_steps(epoch_order(0, 1, len(dataset.train)))
    expected, found = alone.evaluate(), RecordedRun.load(tmp_path / "run")
    for name, array in load_file(tmp_path / "run/weights.safetensors").items():
        DEVICES_FLOAT64.assert_close(array, alone.parameters()[name], name)
    DEVICES_FLOAT64.assert_close(found.train_losses, losses)
    DEVICES_FLOAT64.assert_close(found.summary["test_loss"], expected.loss)
    assert (found.summary["test_correct"], found.summary["test_examples"]) == (expected.correct, len(dataset.test))
    assert found.evaluations[0].mistakes == expected.mistakes
    assert found.summary["devices"] == 2


def go_on_here(first: str, second: str, folder: Path) -> int:
    """Resumes the run in `folder`, of the `first` framework, in this process by the `second`, on one device, for an
    epoch or two; from which step. It must end as a run that was never stopped."""
    step = max(int(path.stem.partition("-")[2]) for path in folder.glob("checkpoints/step-*"))
    config = Config.from_json((folder / "config.json").read_text())
    config = dataclasses.replace(config, devices=1, epochs=step // STEPS + 2, run_dir=folder)
    TRAIN[second](config, UNWATCHED, resume=True)
    assert_ended_as_alone(first, config, folder)
    return step


def assert_ended_as_alone(side: str, config: Config, folder: Path) -> None:
    alone = dataclasses.replace(config, devices=1, split_hidden=1, run_dir=folder.with_name("alone"))
    TRAIN[side](alone, UNWATCHED)
    for name, array in load_file(folder.with_name("alone") / "weights.safetensors").items():
        RUN_FLOAT64.assert_close(load_file(folder / "weights.safetensors")[name], array, name)


@pytest.mark.parametrize(
    ("side", "killed"),
    [("torch", 1), pytest.param("jax", 1, marks=SLOW_JAX), pytest.param("jax", 0, marks=SLOW_JAX)],
)
def test_a_killed_process_ends_the_other_and_the_run_goes_on_with_one(side, killed, flags, tmp_path):
    """The other framework resumes it, in the middle of an epoch."""
    with processes(side, tmp_path, *flags, *FOREVER, "--checkpoint-every", "9") as started:
        wait_until_trained(started, tmp_path / "run", 20)
        started[killed].kill()
        status, _, error = ends([started[1 - killed]], DEADLINE)[0]
    assert status == 2, error
    (said,) = re.findall(r"error: another process of this run ended.*; --resume run goes on.*", error)
    assert not (tmp_path / "run/summary.json").exists()
    step = go_on_here(side, {"jax": "torch", "torch": "jax"}[side], tmp_path / "run")
    assert killed == 0 or said.endswith(f"--resume run goes on from step {step}")


@pytest.mark.long("starts four processes, and kills of one process are in the other tier")
@side
def test_a_signal_to_one_process_stops_both_with_a_checkpoint(side, flags, tmp_path):
    with processes(side, tmp_path, *flags, *FOREVER) as started:
        wait_until_trained(started, tmp_path / "run", 20)
        started[1].send_signal(signal.SIGTERM)
        (first, _, said), (other, _, noted) = ends(started)
    assert (first, other) == (143, 143), (said, noted)
    step = int(re.search(r"stopped after step (\d+); --resume run goes on from step \1$", said)[1])
    assert noted.splitlines()[-1].endswith(f"stopped after step {step}")
    if side == "torch":
        assert go_on_here("torch", "torch", tmp_path / "run") == step
    else:
        assert Checkpoints(tmp_path / "run/checkpoints").newest().step == step


@pytest.mark.parametrize(
    ("both", "second"),
    [([], ["--hidden", "8", "7"]), (["--initial-weights", "{process}.safetensors"], [])],
    ids=["shapes", "weights"],
)
def test_processes_that_were_told_different_things_say_so(both, second, flags, tmp_path):
    """By itself torch would take the first process's weights, and end in its own words where shapes differ."""
    for process in (0, 1):
        weights = initial_parameters("torch_linear", (30, 8, 6, 3), process)
        save_weights(tmp_path / f"{process}.safetensors", weights)
    with processes("torch", tmp_path, *flags, "--run-dir", "run", *both, second=second) as started:
        for status, told, error in ends(started):
            assert (status, told) == (2, "")
            assert error.splitlines()[-1].endswith("differ in their flags, data, versions or first weights")
    assert not (tmp_path / "run").exists()


@pytest.mark.long("starts JAX twice")
def test_where_the_first_process_cant_begin_the_other_says_that_nothing_was_trained(flags, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes").touch()
    with processes("jax", tmp_path, *flags, "--run-dir", "run") as started:
        (first, _, said), (other, _, noted) = ends(started)
    assert (first, other) == (2, 2), (said, noted)
    assert said.splitlines()[-1].endswith("--run-dir run is not empty (notes); name a new or empty folder")
    assert re.search(r"error: another process of this run ended.*\(.+\); nothing was trained$", noted, re.M)


def test_a_process_whose_others_dont_come(monkeypatch):
    def fail():
        raise RuntimeError("port in use")

    monkeypatch.setattr(process_group, "JOIN_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"the 2 processes did not find each other within 0\.1 seconds"):
        process_group.join_others(2, threading.Event().wait)
    with pytest.raises(UserError, match="the 2 processes did not find each other: port in use"):
        process_group.join_others(2, fail)
    process_group.join_others(2, lambda: None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--devices 2 --processes 2", "--processes 2 needs --process, from 0 to 1"),
        ("--devices 2 --processes 2 --process 2", "--process must be from 0 to 1, got 2"),
        ("--devices 2 --processes 0 --process 0", "--processes must be at least 1, got 0"),
        ("--devices 1 --processes 2 --process 0", "--devices must be divisible by --processes 2: try 2, got 1"),
        ("--devices 2 --processes 2 --process 0 --coordinator here", "--coordinator must be HOST:PORT, got here"),
        ("--devices 2 --processes 2 --process 0 --coordinator n:65536", "--coordinator must be HOST:PORT, got n:65536"),
        ("--devices 2 --coordinator node:1234", "--coordinator node:1234 is for several --processes"),
        ("--seeds 2 --processes 2 --process 0", "--coordinator, --processes and --process are for one run"),
    ],
)
def test_flags_of_processes_that_make_no_sense(flags, message):
    with pytest.raises(UserError, match=message):
        jax_mlp.train.start(parse_config(flags.split(), jax_mlp.train.Options))


def test_what_a_launcher_says(monkeypatch):
    """Each process has its own GPUs, whether it sees those of the others too or not; the shell of a SLURM job, of many
    tasks, is one process."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    eight, alone = Config(devices=8), distributed.ProcessGroup()
    for name, value in slurm_step(1, 0).items() | {("SLURM_NTASKS", "8")}:
        monkeypatch.setenv(name, value)
    assert (distributed.ProcessOptions().for_run(eight), distributed.own_gpus(8)) == (alone, None)
    for name, value in slurm_step(4, 3).items():
        monkeypatch.setenv(name, value)
    assert distributed.ProcessOptions().for_run(eight) == distributed.ProcessGroup(processes=4, process=3)
    assert distributed.ProcessOptions(processes=4).for_run(eight) == distributed.ProcessGroup(processes=4, process=3)
    with pytest.raises(UserError, match="--process 2: its launcher calls this process 3"):
        distributed.ProcessOptions(process=2).for_run(eight)
    assert distributed.ProcessOptions(processes=2, process=0).for_run(eight) == distributed.ProcessGroup(processes=2)
    assert distributed.ProcessOptions().for_run(Config(devices=1)) == alone
    assert distributed.own_gpus(2) == [6, 7]
    for seen, own in {"0,1,2,3,4,5,6,7": [6, 7], "2,3": [0, 1], "5": [0]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
        assert distributed.own_gpus(2) == own
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "1")
    assert distributed.own_gpus(2) is None, "JAX reads it"
    for name, value in slurm_step(3, 2).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--devices must be divisible by --processes 3: try 6 or 9, got 8"):
        distributed.ProcessOptions().for_run(eight)


def test_a_run_goes_on_by_another_number_of_processes(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text(Config(devices=8).to_json())
    for name, value in slurm_step(5, 0).items():
        monkeypatch.setenv(name, value)
    options = parse_config(["--resume", str(tmp_path), "--devices", "5"], jax_mlp.train.Options)
    assert options.process_options.for_run(options.config) == distributed.ProcessGroup(processes=5, process=0)


@pytest.mark.parametrize("coordinator", ["node:1234", None])
def test_a_launcher_is_asked_for_the_place_to_meet_only_if_none_is_named(coordinator, monkeypatch):
    told = {}

    def initialize(*arguments, **options):
        told.update(options, place=arguments)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: told.update(left=True))
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    with distributed.ProcessGroup(coordinator, 2, 1).join(Config(devices=2)):
        assert "left" not in told
    assert (told["place"], told["left"]) == ((coordinator, 2, 1), True)
    assert told["cluster_detection_method"] == ("deactivate" if coordinator else None)
    assert told["jax_enable_preemption_service"] is False, "it would take SIGTERM, which stops a run"


def test_a_logit_is_alive_if_an_example_of_any_process_makes_it_positive(digits, monkeypatch):
    def gather(parts, own):
        parts[:] = [own, dataclasses.replace(own, positive=~own.positive)]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    config = dataclasses.replace(PRESETS["relu"], hidden=(8,), device="cpu")
    trainer = DataParallelTrainer(ProcessGroup(0, 2, 0), config, digits, None)
    assert trainer.evaluate().never_positive == []


def test_processes_without_a_place_to_meet(run):
    process = run("jax_mlp.train", "--devices", "2", "--processes", "2", "--process", "0")
    assert_one_line(process, "several processes need --coordinator HOST:PORT")


@pytest.mark.parametrize(
    ("flags", "variables", "message"),
    [
        ("--devices 2", "WORLD_SIZE=1", "start it as torchrun --nproc-per-node 2 -m reference_torch.train"),
        (
            "--devices 1",
            "WORLD_SIZE=2",
            ": give --devices 2, or unset WORLD_SIZE to train in one process",
        ),
        ("--devices 2 --split-hidden 2", "WORLD_SIZE=2", "--split-hidden must be 1 in torch, got 2"),
        ("--seeds 2", "WORLD_SIZE=2", "--devices 1: torch needs a process for each; torchrun started 2 processes"),
        ("--devices 2", "WORLD_SIZE=two", "WORLD_SIZE, which torchrun sets, must be a whole number, got two"),
        ("--devices 2", "WORLD_SIZE=2", "RANK, which torchrun sets, must be a whole number, got nothing"),
        (
            "--devices 2",
            "WORLD_SIZE=2 RANK=1",
            "LOCAL_RANK, which .* got nothing; unset WORLD_SIZE to train in one",
        ),
        ("--devices 2", "WORLD_SIZE=2 RANK=2 LOCAL_RANK=0", "RANK must be below WORLD_SIZE 2, got 2"),
    ],
)
def test_torch_takes_a_process_for_each_device(flags, variables, message, monkeypatch):
    for variable in variables.split():
        monkeypatch.setenv(*variable.split("="))
    with pytest.raises(UserError, match=message):
        reference_torch.train.start(parse_config(flags.split(), TrainingOptions))


@pytest.mark.parametrize("devices", [1, 2])
def test_variables_of_another_launch_are_refused_at_once_by_whatever_uses_a_trainer(devices, monkeypatch):
    """As parity does, which has no processes to wait for."""
    for variable in ("WORLD_SIZE=4", "RANK=2", "LOCAL_RANK=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=1"):
        monkeypatch.setenv(*variable.split("="))
    with (
        pytest.raises(UserError, match="torchrun started 4 processes, as WORLD_SIZE says"),
        reference_torch.train.framework(Config(devices=devices)),
    ):
        pass


@pytest.mark.parametrize(
    "name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE"]
)
def test_what_is_timed_is_no_part_of_another_launch(name, monkeypatch):
    monkeypatch.setenv(name, "4")
    assert name not in environment()
