"""Times one variant in a fresh process: the request is JSON on standard input, the answer JSON on standard output."""

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

from mlp_compare.bench.variants import MODELS, SEEDS_VARIANTS, VARIANTS
from mlp_compare.parity.bound_table import DRIFT_FLOAT64
from mlp_workload.batches import epoch_order
from mlp_workload.config import Config
from mlp_workload.data import Dataset, Examples, load
from mlp_workload.environment.description import describe_environment
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.interface import Losses
from mlp_workload.weights import Parameters, save_weights


def main() -> None:
    request = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    try:
        json.dump(measure(**request), answer)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    answer.close()


def measure(
    variant: str,
    config: dict[str, Any],
    epochs: int,
    spawned_at: float,
    examples: int | None = None,
    state: str | None = None,
) -> dict[str, Any]:
    """Returns the seconds of each part of a run since the start of the process.

    If `state` is given, it writes the parameters after one epoch to that file instead. `spawned_at` is a time of
    `time.monotonic`. An epoch has the first `examples` or all, and ends when its result has arrived.
    """
    settings = Config.from_json(json.dumps(config))
    answer: dict[str, Any] = {"start_seconds": time.monotonic() - spawned_at}
    clock = Clock()
    if variant in VARIANTS:
        make = VARIANTS[variant].load()
    else:
        make = partial(SeveralModels, SEEDS_VARIANTS[variant].load(), state is not None)
    answer["import_seconds"] = clock.lap()
    dataset = load(settings.dataset, settings.transpose_images)
    part = Examples(dataset.train.images[:examples], dataset.train.labels[:examples])
    dataset = replace(dataset, train=part)
    widths = settings.widths(dataset.pixels, dataset.classes)
    initial = initial_parameters(settings.initialization, widths, settings.seed)
    answer["data_seconds"] = clock.lap()
    trainer = make(settings, dataset, initial)
    answer["build_seconds"] = clock.lap()
    trainer.compile()
    answer["compile_seconds"] = clock.lap()
    if state is not None:
        epoch_seconds(trainer, settings, dataset, 1)
        save_weights(Path(state), trainer.state())
        return {"device": trainer.device}
    answer["ready_seconds"] = time.monotonic() - spawned_at
    first, *others = epoch_seconds(trainer, settings, dataset, epochs + 1)
    return answer | {
        "first_epoch_seconds": first,
        "epoch_seconds": others,
        "peak_megabytes": _peak_megabytes(),
        "device": trainer.device,
        "precision": settings.precision,
        "environment": describe_environment(
            ("numpy", *trainer.packages), getattr(trainer, "gpu_versions", None), getattr(trainer, "threads", None)
        ),
    }


def epoch_seconds(trainer: Any, config: Config, dataset: Dataset, epochs: int) -> list[float]:
    """Returns the seconds of each epoch until its result has arrived, without the time of `prepare`."""
    seconds = []
    for epoch in range(1, epochs + 1):
        order: Any = epoch_order(config.seed, epoch, len(dataset.train))
        if hasattr(trainer, "prepare"):
            order = trainer.prepare(order)
        clock = Clock()
        np.asarray(trainer.train_steps(order))
        seconds.append(clock.lap())
    return seconds


class SeveralModels:
    """`MODELS` models that a variant trains at once, timed as one: an epoch is one epoch of each.

    Each model starts the given order at another batch, or, if `equal`, at the same one.
    """

    def __init__(
        self, make: Callable[..., Any], equal: bool, config: Config, dataset: Dataset, initial: Parameters
    ) -> None:
        self._models = make(config, dataset, initial, MODELS)
        self._shift = 0 if equal else config.batch_size
        self.compile = self._models.compile
        self.packages, self.device = self._models.packages, self._models.device

    def prepare(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        return np.stack([np.roll(order, -model * self._shift) for model in range(MODELS)])

    def train_steps(self, orders: npt.NDArray[np.int32]) -> Losses:
        losses: Losses = self._models.train_steps(orders)
        self._losses = losses
        return losses

    def state(self) -> Parameters:
        """Returns the parameters of the first of equal models. Raises `UserError` if their losses differ."""
        if len(self._losses) != MODELS or not np.ptp(self._losses, axis=0).max() <= DRIFT_FLOAT64:
            raise UserError(f"{MODELS} equal models have losses, of shape {self._losses.shape}, that differ")
        return dict(self._models.parameters())


class Clock:
    def __init__(self) -> None:
        self._at = time.perf_counter()

    def lap(self) -> float:
        """Returns the seconds since the previous lap."""
        before, self._at = self._at, time.perf_counter()
        return self._at - before


def _peak_megabytes() -> float:
    """Returns the peak of this process's memory; nan on Windows."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()  # Linux's getrusage includes the parent before fork
    except OSError:
        try:
            import resource
        except ModuleNotFoundError:
            return math.nan
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


if __name__ == "__main__":
    main()
