"""Other forms of the training that JAX's users choose, as `mlp_compare.bench` times them.

`Trainer` itself runs each epoch as one compiled program.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jax_mlp.device import find_device
from jax_mlp.seeds import SeedsTrainer, make_seeds_trainer
from jax_mlp.trainer import Trainer
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.weights import Parameters


class PerStep(Trainer):
    """A Python loop over batches that calls a compiled step."""

    def compile(self) -> None:
        examples = len(self._train[1])
        for size in {self._batch_size, examples % self._batch_size or self._batch_size}:
            state = jax.tree.map(jnp.copy, self._state)  # the step donates its state
            jax.block_until_ready(self._epoch(state, *self._train, np.zeros(size, np.int32)))

    def run_epoch(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        losses = []
        for batch in np.split(order, range(self._batch_size, len(order), self._batch_size)):
            self._state, loss = self._epoch(self._state, *self._train, batch)
            losses.append(loss)
        return np.concatenate(jax.device_get(losses))


class Seeds:
    """Several models as `python -m jax_mlp.train --seeds` trains them, one group after another.

    All start from the weights `initial`. `run_epoch` trains each one over its row of `orders` (models, n);
    `parameters` returns those of the first model.
    """

    packages = SeedsTrainer.packages

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> None:
        self._trainer = self._make(config, dataset, initial, models)
        self._at_once = self._trainer.at_once
        self._groups = range(0, models, self._at_once)
        self.device = self._trainer.device

    def _make(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> SeedsTrainer:
        return make_seeds_trainer(config, dataset, initial, models)

    def compile(self) -> None:
        self._trainer.compile()
        self._states = []
        for _ in self._groups:
            self._trainer.start(range(self._at_once))
            self._states.append(self._trainer.state)

    def run_epoch(self, orders: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        losses = []
        for group, first in enumerate(self._groups):
            self._trainer.state = self._states[group]
            losses.append(self._trainer.run_epoch(orders[first : first + self._at_once]))
            self._states[group] = self._trainer.state
        return np.concatenate(losses)[: len(orders)]

    def parameters(self) -> Parameters:
        self._trainer.state = self._states[0]
        return self._trainer.parameters()[0]


class SeedsInTurn(Seeds):
    """Several models on one device, one after another."""

    def _make(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> SeedsTrainer:
        return SeedsTrainer(config, dataset, initial, [find_device(config)], at_once=1)


class SeedsVmapped(Seeds):
    """Several models on one device, as one vmapped program."""

    def _make(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> SeedsTrainer:
        return SeedsTrainer(config, dataset, initial, [find_device(config)], at_once=models)
