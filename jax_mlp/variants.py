"""The same training in another form that JAX's users choose. `Trainer` itself is the one with whole epochs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jax_mlp.trainer import Trainer


class PerStep(Trainer):
    """One call of a compiled step for each turn of a Python loop, as most training loops have it."""

    def compile(self) -> None:
        examples = len(self._train[1])
        for size in {self._batch_size, examples % self._batch_size or self._batch_size}:
            state = jax.tree.map(jnp.copy, self._state)  # the step takes its memory
            jax.block_until_ready(self._epoch(state, *self._train, np.zeros(size, np.int32)))

    def run_epoch(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        losses = []
        for batch in np.split(order, range(self._batch_size, len(order), self._batch_size)):
            self._state, loss = self._epoch(self._state, *self._train, batch)
            losses.append(loss)
        return np.concatenate(jax.device_get(losses))
