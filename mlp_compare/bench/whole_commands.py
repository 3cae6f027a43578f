"""Timings of whole commands from start to end, as users type them."""

import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from mlp_compare.bench import processes
from mlp_workload.config import Config
from mlp_workload.data.shipped import CLASSES, PIXELS
from mlp_workload.errors import warn
from mlp_workload.initial import initial_parameters
from mlp_workload.weights import save_weights

ROUNDS, EPOCHS = 6, 10
TARGET_ACCURACY = 0.85
"""Accuracy on the test set up to which training is timed."""
JAX_FIRST, JAX_LATER = "python -m jax_mlp.train, the first time", "python -m jax_mlp.train, later"
TORCH, TUTORIAL = "python -m reference_torch.train", "python -m reference_torch.tutorial module"
JAX_GIVEN, TORCH_GIVEN = "JAX, from given weights", "PyTorch, from given weights"
JAX_WATCHED, TORCH_WATCHED = "JAX, drawn on a dashboard", "PyTorch, drawn on a dashboard"
JAX_UNKEPT, TORCH_UNKEPT = "JAX, without checkpoints", "PyTorch, without checkpoints"
COMMANDS = {
    JAX_FIRST: ("jax_mlp.train", "plainly"),
    JAX_LATER: ("jax_mlp.train", "plainly"),
    TORCH: ("reference_torch.train", "plainly"),
    JAX_GIVEN: ("jax_mlp.train", "given"),
    TORCH_GIVEN: ("reference_torch.train", "given"),
    TUTORIAL: ("reference_torch.tutorial", "plainly"),
    JAX_UNKEPT: ("jax_mlp.train", "unkept"),
    TORCH_UNKEPT: ("reference_torch.train", "unkept"),
    JAX_WATCHED: ("jax_mlp.train", "watched"),
    TORCH_WATCHED: ("reference_torch.train", "watched"),
}
"""Module of each command, and how it is run."""


def measure(device_flags: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Returns samples of each command in `COMMANDS`; those with a dashboard only if Visdom is installed.

    Commands timed up to an accuracy start from the same weights, without the last activation, which can lose a class.
    """
    with tempfile.TemporaryDirectory() as folder, _dashboard(Path(folder, "dashboard")) as watching:
        start = Path(folder, "start.safetensors")
        widths = Config().widths(PIXELS, CLASSES)
        save_weights(start, {k: v.astype(np.float32) for k, v in initial_parameters("torch_linear", widths, 0).items()})
        flags: dict[str, list[str]] = {
            "plainly": [],
            "given": ["--last-activation", "none", "--initial-weights", str(start)],
            "unkept": ["--checkpoint-every", str(10**9)],
            "watched": watching,
        }
        names = [name for name, (_, how) in COMMANDS.items() if how != "watched" or watching]
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        task = progress.add_task("", total=ROUNDS * len(names))
        for number in range(-1, ROUNDS):  # round -1 fills the cache
            for name in names if number % 2 == 0 else reversed(names):
                module, how = COMMANDS[name]
                if number < 0 and module != "jax_mlp.train":
                    continue
                progress.update(task, advance=number >= 0, description=f"whole commands, round {number + 1}: {name}")
                cache = Path(folder, f"cache-{number}" if name == JAX_FIRST else "cache")
                run_folder = Path(folder, f"run-{number}-{names.index(name)}")
                sample = _time_command(name, module, [*flags[how], *device_flags], run_folder, cache)
                if number >= 0:
                    samples[name].append(sample)
        progress.remove_task(task)
    return samples


def _time_command(name: str, module: str, flags: Sequence[str], folder: Path, cache: Path) -> dict[str, float]:
    variables = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    flags = [*flags, "--epochs", str(EPOCHS)]
    started, began = time.time(), time.monotonic()
    if module == "reference_torch.tutorial":
        processes.run(name, module, "module", *flags)
        return {"total_seconds": time.monotonic() - began}
    drawn = () if "--visdom" in flags else ("--visdom", "off")
    arguments = (*flags, *drawn, "--quiet", "--run-dir", str(folder))
    processes.run(name, module, *arguments, variables=variables)
    total = time.monotonic() - began
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    first = next(event for event in events if event["event"] == "train_losses")
    sample = {
        "ready_seconds": first["time"] - first["seconds"] - started,
        "first_epoch_done_seconds": first["time"] - started,
        "run_seconds": events[-1]["time"] - events[0]["time"],
        "total_seconds": total,
    }
    for event in events if "--initial-weights" in flags else ():
        if event["event"] == "evaluated" and event["test_correct"] >= TARGET_ACCURACY * event["test_examples"]:
            return sample | {"to_target_seconds": event["time"] - started}
    return sample


@contextlib.contextmanager
def _dashboard(folder: Path) -> Iterator[list[str]]:
    """Starts a Visdom server and yields a trainer's flags for it, or no flags if Visdom is missing or fails."""
    if find_spec("visdom") is None:
        yield []
        return
    port = str(processes.free_port())
    command = [sys.executable, "-m", "mlp_workload.dashboard", "--port", port, "--env-path", str(folder)]
    with subprocess.Popen(
        command, env=processes.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        deadline = threading.Timer(120, server.kill)  # starting may include downloads for its page
        deadline.start()
        output = list(itertools.takewhile(lambda line: not line.startswith("Visdom at"), server.stdout))
        deadline.cancel()
        try:
            if server.poll() is None:
                yield ["--visdom", "required", "--visdom-port", port]
            else:
                warn(f"no dashboard to draw on ({' '.join(output).strip()})")
                yield []
        finally:
            server.kill()
