"""Other forms of the training that JAX's users choose, as `mlp_compare.bench` times them.

`Trainer` itself runs each epoch as one compiled program.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jax_mlp.device import find_device
from jax_mlp.epoch import trace_step
from jax_mlp.seeds import SeedsTrainer, make_seeds_trainer
from jax_mlp.step import TrainState
from jax_mlp.trainer import Trainer
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.interface import Losses
from mlp_workload.weights import Parameters


class PerStep(Trainer):
    """A Python loop over batches that calls a compiled step."""

    def compile(self) -> None:
        def step(state: TrainState, *data: jax.Array) -> tuple[TrainState, jax.Array]:
            state, tensors, _ = trace_step(self._setup, self._mesh.shard_batch, state, *data)
            return state, tensors["loss"]

        self._one_step: Any = jax.jit(step, donate_argnums=0)
        examples = len(self._train[1])
        for size in {self._batch_size, examples % self._batch_size or self._batch_size}:
            state = jax.tree.map(jnp.copy, self._state)  # the step donates its state
            jax.block_until_ready(self._one_step(state, *self._train, np.zeros(size, np.int32)))

    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        losses = []
        for batch in np.split(order, range(self._batch_size, len(order), self._batch_size))[first:last]:
            self._state, loss = self._one_step(self._state, *self._train, batch)
            losses.append(loss)
        return np.stack(jax.device_get(losses))


class Seeds:
    """Several models as `python -m jax_mlp.train --seeds` trains them, one group after another.

    All start from the weights `initial`. `train_steps` trains each one over its row of `orders` (models, n);
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

    def train_steps(self, orders: npt.NDArray[np.int32]) -> Losses:
        losses = []
        for group, first in enumerate(self._groups):
            self._trainer.state = self._states[group]
            losses.append(self._trainer.train_steps(orders[first : first + self._at_once]))
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
