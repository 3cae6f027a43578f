"""One rung in a fresh process: JSON on standard input says which, JSON on standard output how long everything took."""

import json
import resource
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

from mlp_compare.rungs import RUNGS
from mlp_workload.config import Config
from mlp_workload.data import Dataset, Examples, load
from mlp_workload.environment import describe_environment
from mlp_workload.initial import initial_parameters
from mlp_workload.order import epoch_order


def main() -> None:
    request = json.load(sys.stdin)
    with open(sys.stdout.fileno(), "w", closefd=False) as answer:
        sys.stdout = sys.stderr  # what a library prints is no answer
        json.dump(measure(**request), answer)


def measure(
    rung: str,
    config: dict[str, Any],
    epochs: int,
    cores: int,
    spawned_at: float,
    examples: int | None = None,
    check: bool = False,
) -> dict[str, Any]:
    """Seconds of everything from the process's start on, or, to `check` it, the parameters after one epoch.

    `spawned_at` is by `time.time`. An epoch ends when its result has arrived; it has the first `examples` or all.
    """
    settings = Config.from_json(json.dumps(config))
    started = time.time() - spawned_at
    make = RUNGS[rung].load()
    _set_up(make, cores, settings)
    clock = Clock()
    dataset = load(settings.dataset)
    if examples is not None:
        part = Examples(dataset.train.images[:examples], dataset.train.labels[:examples])
        dataset = replace(dataset, train=part)
    data = clock.lap()
    widths = settings.widths(dataset.pixels, dataset.classes)
    initial = initial_parameters(settings.initialization, widths, settings.seed)
    imported = time.time() - spawned_at - started - data
    clock.lap()
    trainer = make(settings, dataset, initial)
    made = clock.lap()
    trainer.compile()
    compiled = clock.lap()
    if check:
        trainer.run_epoch(epoch_order(settings.seed, 1, len(dataset.train)))
        return {name: array.tolist() for name, array in trainer.state().items()}
    ready = time.time() - spawned_at
    seconds = epoch_seconds(trainer, settings, dataset, epochs + 1)
    return {
        "start_seconds": started,
        "import_seconds": imported,
        "data_seconds": data,
        "build_seconds": made,
        "compile_seconds": compiled,
        "ready_seconds": ready,
        "first_epoch_seconds": seconds[0],
        "epoch_seconds": seconds[1:],
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "device": trainer.device,
        "environment": describe_environment(("numpy", *trainer.packages)),
    }


def epoch_seconds(trainer: Any, config: Config, dataset: Dataset, epochs: int) -> list[float]:
    """Of each epoch, until its losses, or whatever it gives, have arrived."""
    seconds = []
    for epoch in range(1, epochs + 1):
        order = epoch_order(config.seed, epoch, len(dataset.train))
        clock = Clock()
        np.asarray(trainer.run_epoch(order))
        seconds.append(clock.lap())
    return seconds


class Clock:
    def __init__(self) -> None:
        self._at = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last one."""
        before, self._at = self._at, time.perf_counter()
        return self._at - before


def _set_up(make: Any, cores: int, config: Config) -> None:
    """As many threads as cores for either framework, IEEE products, float64 where it is asked for."""
    if "jax" in sys.modules or getattr(make, "backend", None) == "jax":
        import jax

        jax.config.update("jax_enable_x64", config.dtype == "float64")
        jax.config.update("jax_default_matmul_precision", "highest")
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(cores)
        torch.set_float32_matmul_precision("highest")


if __name__ == "__main__":
    main()
