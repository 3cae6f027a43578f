"""Trains models that differ only in their seeds at the same time: one per core of a CPU, or all together on a GPU.

On a CPU, one small model per core is the fastest way; vmapping several models gains nothing there
(`docs/performance.md`). A single small model hardly uses a GPU, so there all models are one vmapped program.
On a CPU each model ends with the bytes of its own run, unless there are more devices than cores.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_mlp.device import OnDevice, find_device
from jax_mlp.epoch import FOR_ONE_CALL, evaluate, evaluation, train_steps
from jax_mlp.sharding import ask_for_cpu_devices
from jax_mlp.step import Setup, TrainState, begin, init_state
from jax_mlp.trainer import examples
from jax_mlp.weights import from_canonical, to_canonical
from mlp_workload.batches import steps_per_epoch
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.environment.description import usable_cores
from mlp_workload.interface import Losses
from mlp_workload.metrics import Evaluation
from mlp_workload.weights import Parameters

_PER_MODEL, _SHARED = PartitionSpec("models"), PartitionSpec()


def make_seeds_trainer(config: Config, dataset: Dataset, initial: Parameters | None, models: int) -> "SeedsTrainer":
    """Returns a trainer for `models` models in total.

    On a CPU it has a device per core, if JAX has not started yet and nothing else has set the number of devices.
    Raises `UserError` if a GPU is asked for and there is none.
    """
    ask_for_cpu_devices(min(models, usable_cores()))
    device = find_device(config)
    devices = jax.devices("cpu") if device.platform == "cpu" else [device]
    # On a GPU each keeps files open, and systems allow about a thousand.
    most = len(devices) if device.platform == "cpu" else 256
    groups = -(-models // most)
    at_once = -(-models // groups)  # groups of equal size, not a small last one
    return SeedsTrainer(config, dataset, initial, devices[:at_once], at_once)


class SeedsTrainer(OnDevice):
    """Trains `at_once` models on `devices`, equally many on each; see `mlp_workload.interface.SeedsTrainer`.

    Several models on one device are one vmapped program. float64 needs `jax.enable_x64(True)` around all calls.
    `state` is all that the next epoch depends on, so that groups of models can take turns.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        initial: Parameters | None,
        devices: Sequence[jax.Device],
        at_once: int,
    ) -> None:
        super().__init__(devices[0])
        self.at_once = at_once
        self._initial, self._test_labels = initial, dataset.test.labels
        self._mesh = Mesh(np.array(devices), ("models",))
        setup = self._setup = Setup.of(config, dataset.pixels, dataset.classes)
        self._shapes = jax.eval_shape(partial(begin, setup), setup.shapes)
        self._train, self._test = jax.device_put(examples(dataset), NamedSharding(self._mesh, _SHARED))
        self._draw: Any = jax.jit(self._for_all(partial(init_state, setup), 0))
        steps = steps_per_epoch(len(dataset.train), config.batch_size)

        def epoch(state: TrainState, words: jax.Array, labels: jax.Array, order: jax.Array) -> Any:
            return train_steps(setup, _unsharded, state, words, labels, order, 0, steps)

        self._epoch: Any = jax.jit(self._for_all(epoch, 0, None, None, 0), donate_argnums=0)
        self._evaluate: Any = jax.jit(self._for_all(partial(evaluate, setup, _unsharded), 0, None, None))
        self._models = 0
        self.state: TrainState

    def _for_all(self, program: Callable[..., Any], *axes: int | None) -> Callable[..., Any]:
        """Returns `program` for all models at once.

        Arguments with axis 0, and all results, have a leading axis of models; the other arguments are shared.
        """

        def of_one(*arguments: Any) -> Any:
            local = [
                argument if axis is None else jax.tree.map(lambda leaf: leaf[0], argument)
                for argument, axis in zip(arguments, axes, strict=True)
            ]
            return jax.tree.map(lambda leaf: leaf[None], program(*local))

        # A vmapped program of one model has batched products, which are slower on a CPU.
        per_device = of_one if self.at_once == self._mesh.size else jax.vmap(program, in_axes=axes)
        specs = tuple(_SHARED if axis is None else _PER_MODEL for axis in axes)
        return jax.shard_map(per_device, mesh=self._mesh, in_specs=specs, out_specs=_PER_MODEL)

    def compile(self) -> None:
        per_model = NamedSharding(self._mesh, _PER_MODEL)

        def stacked_shape(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.at_once, *leaf.shape), leaf.dtype, sharding=per_model)

        order = jax.ShapeDtypeStruct(self._train[1].shape, np.int32)
        state, order = jax.tree.map(stacked_shape, (self._shapes, order))
        with ThreadPoolExecutor(max_workers=3, thread_name_prefix="compile") as compilers:
            if self._initial is None:
                seeds = jax.ShapeDtypeStruct((self.at_once,), np.uint32, sharding=per_model)
                draw = compilers.submit(self._draw.lower(seeds).compile, FOR_ONE_CALL)
            epoch = compilers.submit(self._epoch.lower(state, *self._train, order).compile)
            evaluate = compilers.submit(self._evaluate.lower(state.params, *self._test).compile)
            if self._initial is None:
                self._draw = draw.result()
            self._epoch, self._evaluate = epoch.result(), evaluate.result()

    def start(self, seeds: Sequence[int]) -> None:
        self._models = len(seeds)
        if self._initial is None:
            self.state = self._draw(self._stacked(np.array(seeds, np.uint32)))
            return
        with jax.default_device(self._mesh.devices.flat[0]):
            state = begin(self._setup, from_canonical(self._shapes.params, self._initial))
            self.state = jax.tree.map(lambda leaf: self._stacked(np.asarray(leaf)[None]), state)

    def _stacked(self, arrays: npt.NDArray[Any]) -> jax.Array:
        """Returns `arrays`, one per model, on the devices. The last is repeated if there are fewer than `at_once`."""
        missing = self.at_once - len(arrays)
        full = np.concatenate([arrays, np.repeat(arrays[-1:], missing, axis=0)])
        stacked: jax.Array = jax.device_put(full, NamedSharding(self._mesh, _PER_MODEL))
        return stacked

    def train_steps(self, orders: npt.NDArray[np.int32]) -> Losses:
        self.state, losses = self._epoch(self.state, *self._train, self._stacked(orders))
        return np.asarray(jax.device_get(losses))[: self._models]

    def evaluate(self) -> list[Evaluation]:
        values = jax.device_get(self._evaluate(self.state.params, *self._test))
        return [evaluation(of_model, self._test_labels) for of_model in values[: self._models]]

    def parameters(self) -> list[Parameters]:
        stacked = jax.device_get(self.state.params)
        models = (jax.tree.map(lambda leaf, model=model: leaf[model], stacked) for model in range(self._models))
        return [to_canonical(model) for model in models]


def _unsharded(batch: jax.Array) -> jax.Array:
    return batch
