"""Times training steps on several devices and in several processes, by the trainers' own commands."""

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlp_compare.bench import lower_bound, processes
from mlp_workload.config import Config
from mlp_workload.data import Dataset, load
from mlp_workload.data.shipped import CLASSES, PIXELS
from mlp_workload.environment.description import describe_environment
from mlp_workload.sinks.console import Output

FORMAT = 1
NETWORKS = ((50, 80), (50, 800), (200, 200), (200, 3200), (800, 200), (800, 800))
"""Width of both hidden layers, and batch size."""
QUICK_NETWORKS = (NETWORKS[0], *NETWORKS[2:5])
ROUNDS, EPOCHS = 2, 3
"""Epochs are those timed after a first one."""
_OPERATIONS = 2e10
"""Approximate operations of an epoch, which determine its number of examples."""
_FEWEST_STEPS, _MOST_STEPS, _TEST_EXAMPLES = 4, 300, 200


@dataclass(frozen=True)
class Run:
    """A run of some epochs, of an MLP with two hidden layers of `width`."""

    framework: Literal["jax", "torch"]
    devices: int
    processes: int
    split_hidden: int
    width: int
    batch_size: int

    @property
    def config(self) -> Config:
        return Config(hidden=(self.width, self.width), batch_size=self.batch_size, epochs=EPOCHS + 1)

    @property
    def widths(self) -> tuple[int, ...]:
        return self.config.widths(PIXELS, CLASSES)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        wanted = round(_OPERATIONS / lower_bound.operations(self.widths, self.batch_size))
        return min(max(wanted, _FEWEST_STEPS), _MOST_STEPS)

    def __str__(self) -> str:
        split = f", --split-hidden {self.split_hidden}" if self.split_hidden > 1 else ""
        where = f"--devices {self.devices}, {self.processes} processes{split}"
        return f"{self.framework} {where}, width {self.width}, batches of {self.batch_size}"


def runs(networks: Sequence[tuple[int, int]]) -> list[Run]:
    """Returns each network on 1, 2, 4 and 8 devices and in 2 processes; the runs with a split test the prediction."""
    ways: list[tuple[Literal["jax", "torch"], int, int, int]] = [("jax", devices, 1, 1) for devices in (1, 2, 4, 8)]
    ways += [("jax", 2, 2, 1), ("torch", 1, 1, 1), ("torch", 2, 2, 1), ("jax", 2, 1, 2)]
    return [Run(*way, *network) for network in networks for way in ways]


def measure(quick: bool, console: Output) -> dict[str, Any]:
    """Returns all timings as JSON can hold them. Raises `UserError` if a process fails."""
    chosen, rounds = runs(QUICK_NETWORKS if quick else NETWORKS), 1 if quick else ROUNDS
    seconds: dict[Run, list[float]] = {run: [] for run in chosen}
    with console.progress() as progress, tempfile.TemporaryDirectory() as folder:
        task = progress.add_task("", total=rounds * len(chosen))
        mnist = load("mnist")
        for number in range(rounds):
            for run in chosen if number % 2 == 0 else reversed(chosen):
                progress.update(task, advance=1, description=f"round {number + 1}: {run}")
                seconds[run].append(step_seconds(run, mnist, Path(folder)))
    return {
        "format": FORMAT,
        "kind": "scaling",
        "date": datetime.now(UTC).date().isoformat(),
        "cores": processes.CORES,
        "environment": describe_environment(("numpy", "scipy", "jax", "jaxlib", "torch")),
        "runs": [asdict(run) | {"steps": run.steps, "step_seconds": seconds[run]} for run in chosen],
    }


def step_seconds(run: Run, mnist: Dataset, parent: Path) -> float:
    """Returns the seconds of a step: the median of the epochs after the first, by the run's own events."""
    folder = parent / f"run-{len(list(parent.iterdir()))}"
    threads = str(max(1, processes.CORES // run.processes))
    variables = dict.fromkeys(processes.THREADS, threads) | {"JAX_COMPILATION_CACHE_DIR": str(parent / "compiled")}
    flags = [
        f"--dataset=idx:{_data(mnist, run.steps * run.batch_size, parent)}", f"--run-dir={folder}", "--device=cpu",
        f"--devices={run.devices}", "--hidden", str(run.width), str(run.width), f"--batch-size={run.batch_size}",
        f"--epochs={EPOCHS + 1}", "--last-activation=none", "--visdom=off", "--quiet", "--checkpoint-every=1000000000",
    ]  # fmt: skip
    first, *others = _commands(run, flags)
    with ThreadPoolExecutor(1) as pool:  # after Ctrl-C the first is killed, and the others end without it
        futures = [pool.submit(processes.run, str(run), *command, variables=variables) for command in others]
        processes.run(str(run), *first, variables=variables)
    for future in futures:
        future.result()
    events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    epochs = [event["seconds"] for event in events if event["event"] == "train_losses"]
    return float(np.median(epochs[1:])) / run.steps


def _commands(run: Run, flags: Sequence[str]) -> list[list[str]]:
    """Returns the arguments after `python -m` of each process to start."""
    port = processes.free_port()
    if run.framework == "torch":
        torchrun = ["torch.distributed.run", f"--nproc-per-node={run.processes}", f"--master-port={port}", "-m"]
        return [[*(torchrun if run.processes > 1 else ()), "reference_torch.train", *flags]]
    jax = ["jax_mlp.train", *flags]
    if run.split_hidden > 1:
        jax.append(f"--split-hidden={run.split_hidden}")
    if run.processes == 1:
        return [jax]
    jax += [f"--coordinator=127.0.0.1:{port}", f"--processes={run.processes}"]
    return [[*jax, f"--process={process}"] for process in range(run.processes)]


def _data(mnist: Dataset, examples: int, parent: Path) -> Path:
    """Writes the first `examples` of MNIST as IDX files and returns their folder."""
    folder = parent / f"data-{examples}"
    if not folder.exists():
        folder.mkdir()
        for part, source, number in (("train", mnist.train, examples), ("t10k", mnist.test, _TEST_EXAMPLES)):
            for kind, array in (("images-idx3", source.images[:number]), ("labels-idx1", source.labels[:number])):
                header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
                (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return folder
