"""The commands as people type them: real processes, real files, real ends; what they are refused for."""

import gzip
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, TRAINERS, assert_one_line, trainers, write_idx_folder
from safetensors.numpy import load_file, save_file
from warm import python

from mlp_workload.events import Evaluated, RunStarted, TrainLosses
from mlp_workload.initial import initial_parameters
from mlp_workload.sinks.json_lines import read_events
from mlp_workload.weights import load_weights, parameter_shapes

COLD = pytest.mark.long("starts the real interpreter, which imports a framework")
SMALL = "--dataset idx:small --batch-size 20 --hidden 8 6 "
WRONG = [
    ("--preset tanh", "error: --preset: invalid choice: 'tanh'"),
    ("--batch-size 0", "--batch-size must be at least 1, got 0"),
    ("--batch-size -1", "--batch-size must be at least 1, got -1"),
    (SMALL + "--batch-size 104", "--batch-size must be at most 103, the training examples, got 104"),
    ("--epochs -1", "--epochs must be at least 0, got -1"),
    ("--learning-rate nan", "--learning-rate must be from 0 to 3.4e"),
    ("--learning-rate 1e300", "--learning-rate must be from 0 to 3.4e"),
    ("--hidden 10000000000", "--hidden must be widths from 1 to 1000000"),
    ("--momentum 0 --nesterov", "--momentum must be above 0 for --nesterov"),
    ("--dataset idx:~nosuchuser/x", "home directory"),
    ("--dataset idx:" + 300 * "x", "idx:x+: File name too long"),
    ("--initial-weights ~nosuchuser/x", "home directory"),
    (SMALL + "--run-dir ~nosuchuser/x", "home directory"),
    ("--dataset idx:empty", "idx:empty: no IDX files there"),
    ("--dataset idx:nowhere/at/all", "idx:nowhere/at/all: no such folder"),
    ("--dataset idx:truncated", r"truncated/train-images-idx3-ubyte.gz: damaged gzip file"),
    ("--dataset tfds:no_such_set", "tfds:no_such_set: "),
    (SMALL + "--initial-weights misshapen.safetensors", r"layers.1.bias has shape \(3,\), expected \(6,\)"),
    (SMALL + "--initial-weights nothing.safetensors", "nothing.safetensors: no such file"),
    (SMALL + "--initial-weights empty", "empty: not a file"),
    (SMALL + "--run-dir used", "--run-dir used already holds a run"),
    (SMALL + "--run-dir unfinished", "--run-dir unfinished holds a run that is not finished"),
    (SMALL + "--run-dir other", r"--run-dir other is not empty \(notes.txt\)"),
    (SMALL + "--run-dir file.txt", "--run-dir file.txt is not a folder"),
    (SMALL + "--run-dir file.txt/deeper", "cannot write file.txt"),
    ("--seeds 0", "--seeds must be from 1 to 4294967296 less --seed, got 0"),
    ("--seed 4294967290 --seeds 7", "--seeds must be from 1 to .*, got 7"),
    ("--seeds 2 --visdom required", "--visdom required is for one run"),
    (SMALL + "--seeds 2 --run-dir other", r"--run-dir other is not empty \(notes.txt\)"),
    (SMALL + "--seeds 2 --run-dir file.txt", "--run-dir file.txt is not a folder"),
    (SMALL + "--seeds 2 --batch-size 104", "--batch-size must be at most 103, the training examples, got 104"),
    ("--device gpu", "--device gpu: torch sees none"),
    ("--device gpu", "--device gpu: JAX sees none"),
]
"""To one trainer and the other in turn: what reads the flags and the files is the same for both. By torch, which begins
sooner, where training is about to begin."""


@pytest.fixture
def bad_things(digits, tmp_path):
    """What the wrong command lines point at."""
    (tmp_path / "empty").mkdir()
    for folder, names in {"used": ["config.json", "summary.json"], "unfinished": ["config.json"]}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text("{}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    (tmp_path / "file.txt").write_text("mine")
    for folder in ("small", "truncated"):
        (tmp_path / folder).mkdir()
        write_idx_folder(tmp_path / folder, digits)
    images = tmp_path / "truncated/train-images-idx3-ubyte"
    images.with_suffix(".gz").write_bytes(gzip.compress(images.read_bytes())[:-100])
    images.unlink()
    parameters = initial_parameters("torch_linear", (30, 8, 6, 3), 0)
    save_file(parameters | {"layers.1.bias": np.zeros(3)}, tmp_path / "misshapen.safetensors")
    return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("trainer", "arguments", "message"),
    [
        ("reference_torch.train" if arguments.startswith(f"{SMALL}--run-dir") else one, arguments, message)
        for one, (arguments, message) in zip(itertools.cycle(TRAINERS.values()), WRONG, strict=False)
    ],
    ids=[arguments.removeprefix(SMALL) for arguments, _ in WRONG],
)
def test_bad_input_ends_in_one_line_and_status_2(trainer, arguments, message, run, bad_things, tmp_path):
    if arguments == "--device gpu" and shutil.which("nvidia-smi"):
        pytest.skip("a GPU may be there; this is about a machine without")
    assert_one_line(run(trainer, *arguments.split(), env={"TFDS_DATA_DIR": str(tmp_path / "empty")}), message)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == bad_things


def test_auto_takes_the_cpu_and_says_so(run, small, tmp_path):
    for trainer in TRAINERS.values():
        folder = tmp_path / trainer
        assert run(trainer, *small, "--epochs", "0", "--visdom", "off", "--run-dir", str(folder)).returncode == 0
        if not shutil.which("nvidia-smi"):
            assert json.loads((folder / "summary.json").read_text())["device"] == "cpu"


@trainers
def test_ctrl_c_ends_in_one_line(trainer, small, tmp_path):
    command = [python(), "-m", trainer, *small, "--epochs", "100000", "--visdom", "off", "--run-dir", "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment, text=True
    ) as process:
        while not process.stdout.readline().startswith("epoch  1"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    noted, stopped = error.splitlines()
    assert noted == "SIGINT: stops when the running program ends; again ends at once"
    assert re.fullmatch(rf"python -m {trainer}: stopped after step (\d+); --resume run goes on from step \1", stopped)


@pytest.mark.parametrize(
    ("trainer", "target"),
    [("jax_mlp.train", "locked"), pytest.param("reference_torch.train", "locked/new", marks=COLD)],
)
def test_a_folder_without_write_permission(trainer, target, run, small, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    # Root may write anywhere, unless it gives up the capability to.
    drop = ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"] if os.geteuid() == 0 else []
    process = run(trainer, *small, "--visdom", "off", "--run-dir", str(tmp_path / target), prefix=drop)
    assert_one_line(process, f"cannot write {folder}.*Permission")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("trainer", "free", "full"),
    [
        pytest.param("jax_mlp.train", 0, "config.json", marks=COLD),
        pytest.param("jax_mlp.train", 100, "weights.safetensors", marks=COLD),
        pytest.param("jax_mlp.train --tensorboard", 260, "events.jsonl", marks=COLD),
        ("reference_torch.train", 260, "events.jsonl"),
    ],
)
def test_a_full_disk(trainer, free, full, small, tmp_path):
    """A real file system with a few free kilobytes: no room for weights is noticed at once, and no run costs them."""
    script = f"""
        mount -t tmpfs -o size=1000k none {tmp_path} && cd {tmp_path} || exit 99
        head -c {1000 - free}k /dev/zero > filler
        PYTHONPATH={ROOT} {sys.executable} -m {trainer} {" ".join(small)} --hidden 200 200 --batch-size 1 \\
            --epochs 1000 --visdom off --run-dir {tmp_path}/run
        status=$?
        echo left:; ls -A run
        [ ! -e run/weights.safetensors ] || cp run/weights.safetensors run/events.jsonl "$0"
        exit $status
    """
    user = [] if os.geteuid() == 0 else ["--map-root-user", "--user"]
    if subprocess.run(["unshare", "--mount", *user, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system of its own")
    with tempfile.TemporaryDirectory() as rescued:
        process = subprocess.run(
            ["unshare", "--mount", *user, "sh", "-c", script, rescued], capture_output=True, text=True, timeout=240
        )
        assert process.returncode == 2, process.stderr
        message = f"cannot write {tmp_path}/run/{full}: No space left on device"
        saved = f"; the weights so far are in {tmp_path}/run/weights.safetensors" if full == "events.jsonl" else ""
        *warnings, error = [line for line in process.stderr.splitlines() if "no checkpoint of step" not in line]
        assert error == f"python -m {trainer.partition(' ')[0]}: error: {message}{saved}"
        assert warnings == [] or ("--tensorboard" in trainer and len(warnings) == 1)
        output, _, left = process.stdout.rpartition("left:")
        if full != "events.jsonl":
            assert left.split() == []
            assert "epoch" not in output, "refused before it trains"
            return
        assert set(left.split()) - {"tensorboard", "checkpoints"} == {
            "config.json",
            "events.jsonl",
            "weights.safetensors",
        }
        weights = load_weights(Path(rescued, "weights.safetensors"), parameter_shapes((30, 200, 200, 3)))
        start = initial_parameters("torch_linear", (30, 200, 200, 3), 0)
        assert not np.allclose(weights["layers.2.weight"], start["layers.2.weight"], atol=1e-3), "trained"
        events = list(read_events(Path(rescued, "events.jsonl")))
        assert isinstance(events[-1], RunStarted | TrainLosses | Evaluated), "readable up to the last whole line"


@pytest.mark.parametrize("trainer", ["reference_torch.train", pytest.param("jax_mlp.train", marks=COLD)])
def test_warnings_and_forks(trainer, tmp_path):
    """A full epoch with every warning an error; JAX warns of a fork of its threads, so torch's side is watched too."""
    script = f"""
import os, runpy, sys
os.register_at_fork(before=lambda: print("forked", file=sys.stderr))
sys.argv = ["{trainer}", "--epochs", "1", "--visdom", "off", "--run-dir", "run"]
runpy.run_module("{trainer}", run_name="__main__")
"""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=240,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.long("trains an epoch of MNIST image by image, twice")
@pytest.mark.parametrize("form", ["hand-written", "module"])
def test_the_articles_programs(form, run):
    """As `docs/training.md` starts them."""
    assert f"\npython -m reference_torch.tutorial {form} --epochs 1\n" in (ROOT / "docs/training.md").read_text()
    process = run("reference_torch.tutorial", form, "--epochs", "1")
    assert process.returncode == 0, process.stderr
    assert re.findall(r"^epoch 1, (\d+) of 60000 \(\d+%\): loss \d\.\d{6}$", process.stdout, re.M) == [
        "0", "20000", "40000"
    ]  # fmt: skip
    over_divided, undivided, mean = (
        float(number)
        for number in re.findall(r"^  ([\d.]+) (?:over-divided|undivided|true mean)", process.stdout, re.M)
    )
    assert over_divided == pytest.approx(undivided / 10_000, abs=1e-6)
    assert mean == pytest.approx(over_divided * 200, abs=2e-4)
    accuracy = int(re.search(r"(\d+) of 10000 right", process.stdout)[1]) / 10_000
    assert accuracy > {"hand-written": 0.7, "module": 0.3}[form]


def test_a_wrong_form_of_the_article(run):
    assert_one_line(run("reference_torch.tutorial", "module2"), "module2")
    assert_one_line(run("reference_torch.tutorial", "module", "--epochs", "-1"), "--epochs must be at least 0")


@pytest.mark.parametrize(("trainer", "missing"), [("jax_mlp.train", "jax"), ("reference_torch.train", "torch")])
def test_a_missing_framework_is_one_line(trainer, missing, tmp_path):
    script = f"""
import runpy, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "{missing}":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
sys.argv = ["{trainer}"]
runpy.run_module("{trainer}", run_name="__main__")
"""
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=240,
    )  # fmt: skip
    assert_one_line(process, f"{missing} is not installed: make setup, or pip install")


def test_two_runs_at_once_never_share_a_folder(small, tmp_path):
    command = [python(), "-m", "reference_torch.train", *small, "--epochs", "1", "--visdom", "off", "--run-dir", "run"]
    processes = [
        subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(3)
    ]  # fmt: skip
    ends = [(process.communicate(timeout=240)[1], process.returncode) for process in processes]
    assert sorted(status for _, status in ends) == [0, 2, 2]
    for error, status in ends:
        assert status == 0 or re.search(
            r"--run-dir run (already holds a run|holds a run that is not finished|is in use)", error
        )
    events = [json.loads(line)["event"] for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert events == ["run_started", "train_losses", "evaluated", "run_finished"] or "warned" in events
    assert events.count("run_finished") == 1


@pytest.mark.long("starts the interpreter and JAX")
def test_float64_from_the_command_line(small, tmp_path):
    """Where x64 is not on already, as it is in this test session, and with every warning an error."""
    command = [sys.executable, "-W", "error", "-m", "jax_mlp.train", *small, "--dtype", "float64", "--epochs", "1"]
    process = subprocess.run(
        [*command, "--visdom", "off", "--run-dir", "run"], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=240,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    assert {array.dtype.name for array in load_file(tmp_path / "run/weights.safetensors").values()} == {"float64"}


def test_unlike_values_reach_the_step(run, small, tmp_path):
    """Flags are more than parsed: a narrower network, another last batch."""
    process = run(
        "jax_mlp.train", *small, "--preset", "relu", "--hidden", "30", "--epochs", "1", "--batch-size", "12",
        "--momentum", "0.9", "--nesterov", "--weight-decay", "0.001", "--visdom", "off", "--run-dir", "run",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["steps"] == 9
    assert load_file(tmp_path / "run/weights.safetensors")["layers.0.weight"].shape == (30, 30)
