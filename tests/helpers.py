"""Functions and data that several test modules use."""

import contextlib
import dataclasses
import json
import os
import random
import re
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from warm import python

from mlp_workload.config import PRESETS, Config
from mlp_workload.data import Dataset, Examples
from mlp_workload.events import Evaluated, RunFinished, RunResumed, RunStarted, TrainLosses, Warned
from mlp_workload.metrics import Mistakes
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.run.session import Run
from mlp_workload.weights import Parameters, save_weights

ROOT = Path(__file__).parents[1]
FASHION = Path("/usr/share/datasets/fashion-mnist")
TRAINERS = {"jax": "jax_mlp.train", "torch": "reference_torch.train"}
trainers = pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)


def assert_one_line(process, message: str) -> None:
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    lines = process.stderr.splitlines()
    assert len(lines) == 1, process.stderr
    assert re.search(message, lines[0]), lines[0]


def as_bytes(parameters):
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in parameters.items()}


def train_with(framework, config, output=None, checkpoint_every=1000, resume=False):
    """Trains as both `train.py` do, with the trainers of `framework`; returns the summary."""
    with Run(config, output, checkpoint_every, resume) as run:
        trainer = run.prepare(framework(config))
        for part in run.parts():
            run.trained(trainer.train_steps(part.order, part.first, part.last))
            if part.ends_epoch:
                run.evaluated(trainer.evaluate())
        run.finish()
    return run.summary


FACTS = {
    "framework": "jax",
    "framework_version": "1",
    "device": "cpu",
    "dataset_digest": "unknown",
    "environment": {"python": "3", "versions": {"jax": "1"}},
}
SECONDS = {"compile_seconds": 0.1, "train_seconds": 0.2, "evaluate_seconds": 0.05, "total_seconds": 0.4}


def recorded(
    folder="runs/a", epochs=2, digests=("d1", "d2"), finished=True, warnings=(), losses=(), resumed=(), facts=FACTS,
    **settings,
):  # fmt: skip
    config = dataclasses.replace(PRESETS["leaky"], **settings)
    events = [RunStarted(config, facts), *(RunResumed(config, facts, 0) for facts in resumed)]
    for epoch, digest in zip(range(1, epochs + 1), digests, strict=False):
        events.append(TrainLosses(epoch, 3 * epoch - 2, np.array(losses or [3.0, 2.0, 1.0]), digest, 0.1))
        events.append(Evaluated(epoch, 3 * epoch, 0.5, 0.1, 7, 10, Mistakes([0], [1]), 0.025))
    events += [Warned(message) for message in warnings]
    if finished:
        events.append(RunFinished(SECONDS))
    return RecordedRun(Path(folder), config, facts, tuple(events))


def make_digits() -> Dataset:
    """A small set, 3 classes of 6x5 pixels in noise, that is learned within a few steps."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (3, 6, 5)) * 200

    def examples(n: int) -> Examples:
        labels = np.arange(n, dtype=np.int32) % 3
        return Examples((patterns[labels] + rng.integers(0, 50, (n, 6, 5))).astype(np.uint8), labels)

    return Dataset("digits", examples(103), examples(31), ("a", "b", "c"))


def write_idx_folder(folder: Path, dataset: Dataset, prefix: str = "") -> str:
    """Writes four IDX files, named as MNIST's behind the `prefix`; the `--dataset` that reads them."""
    for part, examples in (("train", dataset.train), ("t10k", dataset.test)):
        for kind, array in (("images-idx3", examples.images), ("labels-idx1", examples.labels.astype(np.uint8))):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / f"{prefix}{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return f"idx:{folder}"


def write_run(folder: Path, config: Config, parameters: Parameters) -> Path:
    """Writes what predicting takes, a finished run without its events; the folder."""
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    save_weights(folder / "weights.safetensors", parameters)
    return folder


def without_record(folder: Path, target: Path) -> None:
    """Copies a run's events as version 0.1 wrote them, which did not record the images and the names of classes."""
    first, *rest = (folder / "events.jsonl").read_text().splitlines(keepends=True)
    facts = {k: v for k, v in json.loads(first).items() if k not in ("images", "class_names", "data_notes")}
    (target / "events.jsonl").write_text("".join([json.dumps(facts) + "\n", *rest]))


def in_a_small_file_system(script: str, folder: Path, size: str) -> subprocess.CompletedProcess:
    """Runs `script` in a tmpfs of this size, mounted at `folder` for it alone."""
    user = [] if os.geteuid() == 0 else ["--map-root-user", "--user"]
    if subprocess.run(["unshare", "--mount", *user, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system of its own")
    mount = f"mount -t tmpfs -o size={size} none {folder} && cd {folder} || exit 99\nexport PYTHONPATH={ROOT}\n"
    return subprocess.run(
        ["unshare", "--mount", *user, "sh", "-c", mount + script], capture_output=True, text=True, timeout=240
    )


def free_port() -> int:
    """Among those of which JAX takes one for a SLURM job, the last 4,096."""
    while True:
        port = random.randrange(2**16 - 2**12, 2**16)
        with socket.socket() as listening, contextlib.suppress(OSError):
            listening.bind(("127.0.0.1", port))
            return port


def flags_of_jax(port: int, process: int) -> dict[str, str]:
    return {"--coordinator": f"127.0.0.1:{port}", "--processes": "2", "--process": str(process)}


def variables_of_torchrun(port: int, process: int) -> dict[str, str]:
    rank = str(process)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return address | {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}


def variables_of_slurm(port: int, process: int) -> dict[str, str]:
    """Variables of a job from whose number JAX makes this port."""
    job = {"SLURM_JOB_ID": str(port - (2**16 - 2**12)), "SLURM_NTASKS": "2"}
    return job | {"SLURM_STEP_NODELIST": "localhost"} | slurm_step(2, process)


def slurm_step(tasks: int, process: int) -> dict[str, str]:
    return {"SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}


@contextlib.contextmanager
def processes(side: str, folder: Path, *flags: str, second: Sequence[str] = (), slurm: bool = False):
    """Two processes of one run, neither of which outlives the block; the `second` has some more flags. "{process}" in a
    flag is the process's number."""
    port, started = free_port(), []
    for process in (0, 1):
        told = [flag.format(process=process) for flag in (*flags, *(second if process else ()))]
        command = [python(), "-m", TRAINERS[side], "--visdom", "off", *told]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if slurm:
            environment |= variables_of_slurm(port, process)
        elif side == "torch":
            environment |= variables_of_torchrun(port, process)
        else:
            command += [word for flag in flags_of_jax(port, process).items() for word in flag]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True))
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def ends(started, seconds: float = 240) -> list[tuple[int, str, str]]:
    """Each one's exit status, output and errors, without what JAX's gloo prints when processes find each other."""
    texts = [process.communicate(timeout=seconds) for process in started]
    return [
        (process.returncode, re.sub(r"^\[Gloo\] .*\n", "", out, flags=re.M), error)
        for process, (out, error) in zip(started, texts, strict=True)
    ]
