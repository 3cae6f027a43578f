"""One rung in a fresh process: JSON on standard input says which, JSON on standard output how long everything took."""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_compare.bench.variants import MANY, MODELS, PARAMETERS_APART, RUNGS
from mlp_workload.batches import epoch_order
from mlp_workload.config import Config
from mlp_workload.data import Dataset, Examples, load
from mlp_workload.environment.description import describe_environment
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.weights import Parameters, save_weights


def main() -> None:
    request = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        json.dump(measure(**request), answer)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    answer.close()


def measure(
    rung: str,
    config: dict[str, Any],
    epochs: int,
    spawned_at: float,
    examples: int | None = None,
    state: str | None = None,
) -> dict[str, Any]:
    """Seconds of everything from the process's start on, or, into the file `state`, the parameters after one epoch.

    `spawned_at` is by `time.monotonic`. An epoch ends when its result has arrived; it has the first `examples` or all.
    """
    settings = Config.from_json(json.dumps(config))
    started = time.monotonic() - spawned_at
    clock = Clock()
    make = RUNGS[rung].load() if rung in RUNGS else partial(Many, MANY[rung].load(), state is not None)
    imported = clock.lap()
    dataset = load(settings.dataset, settings.transpose_images)
    if examples is not None:
        part = Examples(dataset.train.images[:examples], dataset.train.labels[:examples])
        dataset = replace(dataset, train=part)
    widths = settings.widths(dataset.pixels, dataset.classes)
    initial = initial_parameters(settings.initialization, widths, settings.seed)
    data = clock.lap()
    trainer = make(settings, dataset, initial)
    built = clock.lap()
    trainer.compile()
    compiled = clock.lap()
    if state is not None:
        epoch_seconds(trainer, settings, dataset, 1)
        save_weights(Path(state), trainer.state())
        return {"device": trainer.device}
    ready = time.monotonic() - spawned_at
    seconds = epoch_seconds(trainer, settings, dataset, epochs + 1)
    return {
        "start_seconds": started,
        "import_seconds": imported,
        "data_seconds": data,
        "build_seconds": built,
        "compile_seconds": compiled,
        "ready_seconds": ready,
        "first_epoch_seconds": seconds[0],
        "epoch_seconds": seconds[1:],
        "peak_megabytes": _peak_megabytes(),
        "device": trainer.device,
        "precision": settings.precision,
        "environment": describe_environment(
            ("numpy", *trainer.packages), getattr(trainer, "gpu_versions", None), getattr(trainer, "threads", None)
        ),
    }


def epoch_seconds(trainer: Any, config: Config, dataset: Dataset, epochs: int) -> list[float]:
    """Of each epoch, until its losses, or whatever it gives, have arrived; not of what `prepare` does before it."""
    seconds = []
    for epoch in range(1, epochs + 1):
        order: Any = epoch_order(config.seed, epoch, len(dataset.train))
        if hasattr(trainer, "prepare"):
            order = trainer.prepare(order)
        clock = Clock()
        np.asarray(trainer.train_steps(order))
        seconds.append(clock.lap())
    return seconds


class Many:
    """`MODELS` models that a rung trains at once, as one to be timed: an epoch is one of each.

    The first has the given order, the others the same from another batch on; where they are `alike`, all have the same.
    """

    def __init__(
        self, make: Callable[..., Any], alike: bool, config: Config, dataset: Dataset, initial: Parameters
    ) -> None:
        self._models = make(config, dataset, initial, MODELS)
        self._apart = 0 if alike else config.batch_size
        self.compile = self._models.compile
        self.packages, self.device = self._models.packages, self._models.device

    def prepare(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        return np.stack([np.roll(order, -model * self._apart) for model in range(MODELS)])

    def train_steps(self, orders: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        losses: npt.NDArray[np.floating[Any]] = self._models.train_steps(orders)
        self._losses = losses
        return losses

    def state(self) -> Parameters:
        """Of the first of models that are alike. Raises `UserError` where their losses were not."""
        if len(self._losses) != MODELS or not np.ptp(self._losses, axis=0).max() <= PARAMETERS_APART:
            raise UserError(f"{MODELS} models that are alike have losses of shape {self._losses.shape} that are not")
        parameters: Parameters = self._models.parameters()
        return parameters


class Clock:
    def __init__(self) -> None:
        self._at = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last one."""
        before, self._at = self._at, time.perf_counter()
        return self._at - before


def _peak_megabytes() -> float:
    """The peak of the host's memory; nan on Windows. Linux's getrusage would count the parent's before the fork too."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        try:
            import resource
        except ModuleNotFoundError:
            return math.nan
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


if __name__ == "__main__":
    main()
