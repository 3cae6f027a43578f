"""Several models that train at once, in the forms that JAX's users choose: `mlp_compare.bench` times them.

Each trains `models` models from the same weights, `train_steps` each of them over its row of `orders` (models, n), and
has `parameters` of the first one.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from jax_mlp.device import find_device
from jax_mlp.seeds import Ensemble, make_ensemble
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.weights import Parameters


class Seeds:
    """As `python -m jax_mlp.train --seeds` trains them, a group after the other."""

    packages = Ensemble.packages

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> None:
        self._ensemble = self._make(config, dataset, initial, models)
        self._at_once = self._ensemble.at_once
        self._groups = range(0, models, self._at_once)
        self.device = self._ensemble.device

    def _make(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> Ensemble:
        return make_ensemble(config, dataset, initial, models)

    def compile(self) -> None:
        self._ensemble.compile()
        self._states = []
        for _ in self._groups:
            self._ensemble.start(range(self._at_once))
            self._states.append(self._ensemble.state)

    def train_steps(self, orders: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        losses = []
        for group, first in enumerate(self._groups):
            self._ensemble.state = self._states[group]
            losses.append(self._ensemble.train_steps(orders[first : first + self._at_once]))
            self._states[group] = self._ensemble.state
        return np.concatenate(losses)[: len(orders)]

    def parameters(self) -> Parameters:
        self._ensemble.state = self._states[0]
        return self._ensemble.parameters()[0]


class InTurn(Seeds):
    """One after another."""

    def _make(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> Ensemble:
        return Ensemble(config, dataset, initial, [find_device(config)], at_once=1)


class Vmapped(Seeds):
    """All of them as one vmapped program on one device."""

    def _make(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> Ensemble:
        return Ensemble(config, dataset, initial, [find_device(config)], at_once=models)
