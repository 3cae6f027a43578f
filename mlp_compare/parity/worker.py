"""Worker of the lockstep: runs the trainer of one side in its process."""

import contextlib
from collections import deque
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlp_compare.parity.faults import FAULTS
from mlp_workload import batches, data, initial
from mlp_workload.cli.parse import INSTALL
from mlp_workload.config import Config
from mlp_workload.environment.description import describe_environment
from mlp_workload.errors import UserError
from mlp_workload.interface import Trainer, framework_of, pre_activation
from mlp_workload.run.inputs import check_batch_size, initial_weights
from mlp_workload.weights import Parameters
from twincheck.trace import Array, Trace

load = cache(data.load)
"""Loads each data set once per process."""


class Step(NamedTuple):
    """Values that are compared at every step. `signs` has a bit for each pre-activation: whether it is above 0."""

    digest: npt.NDArray[np.uint8]
    signs: npt.NDArray[np.uint8]
    loss: npt.NDArray[np.floating[Any]]
    state: Parameters


class Evaluated(NamedTuple):
    """Tensors that are compared after an evaluation, and the margins of `Evaluation`."""

    tensors: dict[str, Array]
    margins: Array


class FreeRun(NamedTuple):
    """Result of a run by the trainer's own epochs: losses (steps,), last state and evaluation."""

    losses: npt.NDArray[np.floating[Any]]
    state: Parameters
    evaluated: Evaluated


def facts(trainer: Trainer, config: Config) -> dict[str, Any]:
    """Returns the framework, device, precision and environment of a trainer."""
    environment = describe_environment(("numpy", *trainer.packages), trainer.gpu_versions, trainer.threads)
    package = trainer.packages[0]
    return {
        "framework": f"{package} {environment['versions'][package]}",
        "device": trainer.device,
        "precision": config.precision,
        "environment": environment,
    }


class Worker:
    """Runs the trainer of a side step by step. `side` is "jax", "torch" or the name of a package."""

    def __init__(self, side: str) -> None:
        self._side = side
        self._around = contextlib.ExitStack()
        self._trainer: Trainer
        self._traces: deque[Trace] = deque(maxlen=2)

    def start(self, config: Config, fault: str | None) -> Parameters:
        """Makes a trainer, with `fault` planted if it is not None, and returns its initial state."""
        self._around.close()
        if fault is not None:
            config = replace(config, **FAULTS[fault].flags)
        try:
            make_trainer = self._around.enter_context(framework_of(self._side)(config))
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in INSTALL:
                raise
            raise UserError(f"--sides {self._side}: there is no module {error.name}") from error
        if fault is not None:
            self._around.enter_context(FAULTS[fault].plant())
        self._config, self._dataset = config, load(config.dataset, config.transpose_images)
        check_batch_size(config, self._dataset)
        if (parameters := initial_weights(config, self._dataset)) is None:
            widths = config.widths(self._dataset.pixels, self._dataset.classes)
            parameters = initial.initial_parameters(config.initialization, widths, config.seed)
        self._trainer = make_trainer(config, self._dataset, parameters)
        if missing := [name for name in dir(Trainer) if not name.startswith("_") and not hasattr(self._trainer, name)]:
            raise UserError(
                f"--sides {self._side}: its trainer lacks {', '.join(missing)} of mlp_workload/interface.py"
            )
        self._start = self._trainer.state()
        return self._start

    def facts(self) -> dict[str, Any]:
        return facts(self._trainer, self._config)

    def step(self, number: int) -> Step:
        batch = batches.step_batch(self._config.seed, number, len(self._dataset.train), self._config.batch_size)
        tensors = self._trainer.trace_step(batch)
        facts = {"framework": self._side, "step": str(number), "dtype": self._config.dtype}
        self._traces.append(Trace(tensors, facts))
        activations = enumerate(self._config.activations(len(self._config.hidden) + 1))
        names = [pre_activation(layer) for layer, activation in activations if activation != "none"]
        signs = [np.packbits(tensors[name] > 0) for name in names] or [np.zeros(0, np.uint8)]
        state = {name: array for name, array in tensors.items() if name in self._start}
        return Step(tensors["batch.digest"], np.concatenate(signs), tensors["loss"], state)

    def trace(self, number: int) -> Trace:
        """Returns the trace of one of the last two steps."""
        return next(trace for trace in reversed(self._traces) if trace.facts["step"] == str(number))

    def load_state(self, state: Parameters) -> None:
        self._trainer.load_state(state)

    def evaluate(self) -> Evaluated:
        evaluation = self._trainer.evaluate()
        tensors = {
            "evaluation.labels": evaluation.labels.astype(np.int64),
            "evaluation.losses": evaluation.losses,
            "evaluation.predictions": evaluation.predictions.astype(np.int64),
            "evaluation.correct": np.array(evaluation.correct),
            "evaluation.loss": np.array(evaluation.loss, self._config.dtype),
        }
        return Evaluated(tensors, evaluation.margins)

    def run_freely(self, steps: int) -> FreeRun:
        """Trains from the initial state by the trainer's own epochs, as its users do."""
        self._trainer.load_state(self._start)
        examples, batch_size = len(self._dataset.train), self._config.batch_size
        losses: list[npt.NDArray[np.floating[Any]]] = []
        done, epoch = 0, 0
        while done < steps:
            epoch += 1
            indices = batches.epoch_order(self._config.seed, epoch, examples)[: (steps - done) * batch_size]
            losses.append(self._trainer.train_steps(indices))
            done += len(losses[-1])
        return FreeRun(np.concatenate(losses), self._trainer.state(), self.evaluate())
