"""The same training in another form that JAX's users choose. `Trainer` itself is the one with whole epochs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jax_mlp.epoch import trace_step
from jax_mlp.step import TrainState
from jax_mlp.trainer import Trainer
from mlp_workload.interface import Losses


class PerStep(Trainer):
    """One call of a compiled step for each turn of a Python loop, as most training loops have it."""

    def compile(self) -> None:
        def step(state: TrainState, *data: jax.Array) -> tuple[TrainState, jax.Array]:
            state, tensors, _ = trace_step(self._setup, self._layout.divide, state, *data)
            return state, tensors["loss"]

        self._one_step: Any = jax.jit(step, donate_argnums=0)
        examples = len(self._train[1])
        for size in {self._batch_size, examples % self._batch_size or self._batch_size}:
            state = jax.tree.map(jnp.copy, self._state)  # the step takes its memory
            jax.block_until_ready(self._one_step(state, *self._train, np.zeros(size, np.int32)))

    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        losses = []
        for batch in np.split(order, range(self._batch_size, len(order), self._batch_size))[first:last]:
            self._state, loss = self._one_step(self._state, *self._train, batch)
            losses.append(loss)
        return np.stack(jax.device_get(losses))
