"""Trains models that differ only in their seeds, one after another."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.metrics import Evaluation
from mlp_workload.weights import Parameters
from reference_torch.device import OnDevice, find_device
from reference_torch.trainer import Trainer


class SeedsTrainer(OnDevice):
    """Trains one model at a time; see `mlp_workload.interface.SeedsTrainer`."""

    at_once = 1

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        super().__init__(find_device(config))
        self._config, self._dataset, self._initial = config, dataset, initial
        self._trainer = Trainer(config, dataset, initial)

    def compile(self) -> None:
        """Does nothing: eager torch compiles nothing."""

    def start(self, seeds: Sequence[int]) -> None:
        (seed,) = seeds
        self._trainer = Trainer(replace(self._config, seed=seed), self._dataset, self._initial)

    def train_steps(self, orders: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        return self._trainer.train_steps(orders[0])[None]

    def evaluate(self) -> list[Evaluation]:
        return [self._trainer.evaluate()]

    def parameters(self) -> list[Parameters]:
        return [self._trainer.parameters()]
