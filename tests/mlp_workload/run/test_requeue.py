"""Jobs that are started again by the same command: `--resume-or-start`, in both trainers."""

import contextlib
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, write_idx_folder

import jax_mlp.train
import reference_torch.train
from jax_mlp.train import Options
from mlp_workload.cli.parse import one_line_errors
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import Config
from mlp_workload.errors import UserError
from mlp_workload.run.checkpointing import Checkpointer
from mlp_workload.run.folder import RunFolder
from mlp_workload.run.signals import Stopped

TRAINERS = {"jax": (Options, jax_mlp.train.start), "torch": (TrainingOptions, reference_torch.train.start)}


@pytest.fixture
def start(tmp_path, digits, monkeypatch):
    """The command in this process, in a folder with data."""
    (tmp_path / "data").mkdir()
    write_idx_folder(tmp_path / "data", digits)
    monkeypatch.chdir(tmp_path)
    small = ["--dataset", "idx:data", "--epochs", "2", "--hidden", "6", "--batch-size", "20", "--visdom", "off"]

    def start(trainer: str, *flags: str) -> None:
        kind, run = TRAINERS[trainer]
        run(parse_config([*small, *flags], kind))

    return start


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def locked(path: Path):
    """A process that has a lock on `path`."""
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(); input()"
    process = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def signalled(monkeypatch):
    """Has a signal sent to this process after the first checkpoint of each run."""

    def signalled(number: int) -> None:
        sent = []

        def saved(checkpointer, checkpoint, save=Checkpointer._save):
            save(checkpointer, checkpoint)
            if not sent:
                sent.append(os.kill(os.getpid(), number))

        monkeypatch.setattr(Checkpointer, "_save", saved)

    return signalled


@pytest.mark.parametrize("trainer", ["torch", pytest.param("jax", marks=pytest.mark.long("compiles four runs"))])
def test_the_same_command_begins_resumes_and_then_does_nothing(trainer, start, signalled, tmp_path, capsys):
    run, command = tmp_path / "run", (trainer, "--resume-or-start", "run", "--seed", "3", "--checkpoint-every", "2")
    start(trainer, "--run-dir", "whole", "--seed", "3")
    signalled(signal.SIGUSR1)
    with pytest.raises(Stopped, match="after step 2; --resume run goes on from step 2"):
        start(*command)
    assert not (run / "summary.json").exists()
    start(*command)
    assert (run / "weights.safetensors").read_bytes() == (tmp_path / "whole/weights.safetensors").read_bytes()
    before = content(run)
    capsys.readouterr()
    start(*command)
    assert capsys.readouterr().out == "the run in run is finished after 2 epochs: there is nothing to do\n"
    assert content(run) == before
    for flags, refused in {
        ("--seed", "4"): "--seed 4, it began with 3",
        ("--seed", "3", "--epochs", "1"): "the run is finished after 2 epochs",
        ("--seed", "3", "--run-dir", "other"): "--run-dir other: a run that is resumed stays in its folder",
        ("--seed", "3", "--resume", "run"): "--resume and --resume-or-start: one of them, not both",
        ("--seed", "3", "--seeds", "2"): "--resume-or-start and --checkpoint-every are for one run",
    }.items():
        with pytest.raises(UserError, match=refused):
            start(trainer, "--resume-or-start", "run", *flags)
    assert content(run) == before
    start(trainer, "--resume-or-start", "run", "--seed", "3", "--epochs", "3")


def test_jax_resumes_what_torch_began_and_then_does_nothing(start, signalled, tmp_path, capsys):
    signalled(signal.SIGUSR1)
    with pytest.raises(Stopped, match="after step 2; --resume run goes on from step 2"):
        start("torch", "--resume-or-start", "run", "--checkpoint-every", "2")
    start("jax", "--resume-or-start", "run", "--checkpoint-every", "2")
    before = content(tmp_path / "run")
    capsys.readouterr()
    start("jax", "--resume-or-start", "run", "--checkpoint-every", "2")
    assert capsys.readouterr().out == "the run in run is finished after 2 epochs: there is nothing to do\n"
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_what_batch_systems_send_stops_a_run_with_a_checkpoint(name, start, signalled, tmp_path, capsys):
    number = getattr(signal, name)
    signalled(number)
    with pytest.raises(SystemExit) as ended, one_line_errors("trainer"):
        start("torch", "--run-dir", "run", "--checkpoint-every", "2", "--quiet")
    assert ended.value.code == 128 + number
    assert "trainer: stopped after step 2; --resume run goes on from step 2\n" in capsys.readouterr().err
    signal.signal(number, signal.SIG_DFL)


@pytest.mark.long("takes four seconds of CPU time")
def test_a_limit_of_cpu_time_leaves_time_for_a_checkpoint(tmp_path):
    """The kernel sends SIGXCPU for each second above it; the program that runs then takes some."""
    code = """
import os, resource, time
from mlp_workload.run.signals import StopSignals
with StopSignals() as signals:
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1, resource.RLIM_INFINITY))
    while not signals.received:
        pass
    end = time.process_time() + 1.5
    while time.process_time() < end:
        pass
while time.process_time() < end + 1.5:
    pass
print("stopped")
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stdout) == (0, "stopped\n")
    assert process.stderr == "SIGXCPU: stops when the running program ends\n"


CONFIG = Config().to_json().encode()
STARTED, LOSSES = b'{"event": "run_started", "time": 1.0}\n', b'{"event": "train_losses", "time": 2.0}\n'
SCALARS = "tensorboard/events.out.tfevents.1700000000.host"
LEFT = {
    "claimed": {"config.json": b""},
    "cut off by a full disk": {"config.json": CONFIG[:100]},
    "cut off early": {"config.json": b"{"},
    "begun": {"config.json": CONFIG, "events.jsonl": b'{"event": "run_st', ".room-for-weights": bytes(100)},
    "begun with scalars": {"config.json": CONFIG, "events.jsonl": STARTED, SCALARS: b"scalars"},
    "first checkpoint half written": {"config.json": CONFIG, "checkpoints/.step-00000000.safetensors.17.tmp": b"half"},
    "an empty folder": {},
}
"""Files of a process that was killed before its first checkpoint."""


@pytest.mark.parametrize("name", LEFT)
def test_a_run_killed_before_its_first_checkpoint_begins_afresh(name, start, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for file, data in LEFT[name].items():
        (run / file).parent.mkdir(exist_ok=True)
        (run / file).write_bytes(data)
    start("torch", "--resume-or-start", "run")
    assert sorted(path.name for path in run.iterdir() if path.name != "tensorboard") == [
        "checkpoints", "config.json", "events.jsonl", "summary.json", "weights.safetensors"
    ]  # fmt: skip
    assert not [*run.rglob(".*"), *run.glob("tensorboard/*")]


@pytest.mark.parametrize(
    ("files", "refused"),
    [
        ({"notes.txt": b"mine"}, r"--resume-or-start run holds no run, but notes\.txt"),
        ({"config.json": b"{}", "notes.txt": b"mine"}, r"--resume-or-start run holds no run, but notes\.txt"),
        ({"config.json": b"{}", "weights.safetensors": b"w"}, "--resume-or-start run: config.json is damaged"),
        ({"config.json": b"{}", "checkpoints/copy of step": b"x"}, "--resume-or-start run: config.json is damaged"),
        ({"checkpoints/step-00000000.safetensors": b"x"}, "--resume-or-start run: no run there"),
        ({"config.json": b'{"model_type": "bert"}'}, r"--resume-or-start run holds no run, but config\.json; move"),
        (
            {"config.json": b"{}", "events.jsonl": STARTED},
            r"--resume-or-start run holds no run, but config\.json; move",
        ),
        (
            {"config.json": CONFIG[:-2] + b', "mine": 1\n}'},
            r"--resume-or-start run holds no run, but config\.json; move",
        ),
        ({"events.jsonl": b'{"mine": 1}\n'}, r"--resume-or-start run holds no run, but events\.jsonl; move"),
        (
            {"config.json": CONFIG, "events.jsonl": b"\0"},
            r"--resume-or-start run holds no run, but events\.jsonl; move",
        ),
        ({SCALARS: b"x"}, "--resume-or-start run holds no run, but tensorboard; move"),
        (
            {"config.json": CONFIG, "events.jsonl": STARTED + LOSSES},
            r"run: a run without a checkpoint; move its events",
        ),
    ],
)
def test_nothing_that_is_not_understood_is_removed(files, refused, start, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for file, data in files.items():
        (run / file).parent.mkdir(exist_ok=True)
        (run / file).write_bytes(data)
    before = content(run)
    with pytest.raises(UserError, match=refused):
        start("torch", "--resume-or-start", "run")
    assert content(run) == before
    assert not (run / ".lock").exists()


def test_a_folder_that_can_not_be_claimed_is_not_locked(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*config\.json: File too large"):
            RunFolder.claim(tmp_path, Config(), restart=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    with RunFolder.claim(tmp_path, Config(), restart=True):
        pass


def no_locks_on_folders(descriptor: int) -> None:
    """Locks as NFS does, where an exclusive lock needs a descriptor that can be written to."""
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_makes_no_file_where_a_link_leads(tmp_path, monkeypatch):
    monkeypatch.setattr("mlp_workload.run.folder.lock_file", no_locks_on_folders)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").symlink_to(tmp_path / "outside")
    with RunFolder.claim(tmp_path / "run", Config(), restart=True):
        assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("file_system", ["local", "NFS"])
@pytest.mark.parametrize("begun", [True, False])
def test_of_two_at_once_the_second_is_refused_until_the_first_is_gone(file_system, begun, start, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    if begun:
        (run / "checkpoints").mkdir()
        start("torch", "--resume-or-start", "run", "--epochs", "1")
    lock = run
    if file_system == "NFS":
        monkeypatch.setattr("mlp_workload.run.folder.lock_file", no_locks_on_folders)
        (lock := run / ".lock").touch()
    with locked(lock) as other:
        before = content(run)
        with pytest.raises(UserError, match=r"^run: another process is at this run$"):
            start("torch", "--resume-or-start", "run")
        assert content(run) == before
        other.kill()
        other.wait()
        start("torch", "--resume-or-start", "run")
    assert (run / "summary.json").exists()


def test_a_resumed_run_keeps_up_its_scalars_for_tensorboard(start, tmp_path, monkeypatch, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    start("torch", "--run-dir", "run", "--epochs", "1", "--tensorboard")
    start("torch", "--resume", "run", "--epochs", "2")
    board = EventAccumulator(str(tmp_path / "run/tensorboard"))
    board.Reload()
    assert [scalar.step for scalar in board.Scalars("test/loss")] == [6, 12]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorboardX", None)
        start("torch", "--resume", "run", "--epochs", "3")
    assert "warning: run/tensorboard stays as it is: tensorboardX is not installed" in capsys.readouterr().err
    board.Reload()
    assert [scalar.step for scalar in board.Scalars("test/loss")] == [6, 12]


def test_a_run_without_scalars_gets_none_when_it_is_resumed(start, tmp_path):
    start("torch", "--run-dir", "run", "--epochs", "1")
    start("torch", "--resume", "run", "--epochs", "2")
    assert not (tmp_path / "run/tensorboard").exists()
