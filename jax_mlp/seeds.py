"""Many models at once in JAX, alike but for their seeds: one for each core of a CPU, all of them side by side on a GPU.

Two cores train two small models faster than both of them one model after the other; one vmapped program of several
is no faster than that on a CPU (`docs/performance.md`), and is what a GPU needs, which one small model hardly busies.
On a CPU a model ends with the bytes of a run by itself as long as there are no more devices than cores.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_mlp.device import device_name, find_device, peak_bytes, product_threads, versions
from jax_mlp.epoch import FOR_ONE_CALL, evaluate, evaluation, train_steps
from jax_mlp.sharding import ask_for_cpu_devices
from jax_mlp.step import Setup, TrainState, begin, init_state
from jax_mlp.trainer import examples
from jax_mlp.weights import from_neutral, to_neutral
from mlp_workload.batches import steps_per_epoch
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.environment.description import usable_cores
from mlp_workload.interface import Losses
from mlp_workload.metrics import Evaluation
from mlp_workload.weights import Parameters

_MOST_AT_ONCE = 256
"""On a GPU: each has files open, of which systems allow a thousand."""
_SPREAD, _SAME = PartitionSpec("models"), PartitionSpec()


def make_ensemble(config: Config, dataset: Dataset, initial: Parameters | None, models: int) -> "Ensemble":
    """For so many models in all: on a CPU a device for each core, if JAX has not begun yet and nobody else has said how
    many. Raises `UserError` where a GPU is wanted and there is none."""
    ask_for_cpu_devices(min(models, usable_cores()))
    device = find_device(config)
    devices = jax.devices("cpu") if device.platform == "cpu" else [device]
    most = len(devices) if device.platform == "cpu" else _MOST_AT_ONCE
    groups = -(-models // most)
    at_once = -(-models // groups)  # groups of one size, rather than a small last one
    return Ensemble(config, dataset, initial, devices[:at_once], at_once)


class Ensemble:
    """See `mlp_workload.interface.Ensemble`. `at_once` models on `devices`, as many on each; with several on a device
    they are one vmapped program. float64 needs `jax.enable_x64(True)` around all of it.

    `state` is what the next epoch depends on, for models that take turns.
    """

    framework = "jax"
    packages = ("jax", "jaxlib", "flax", "optax")

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        initial: Parameters | None,
        devices: Sequence[jax.Device],
        at_once: int,
    ) -> None:
        self.device, self.gpu_versions = device_name(devices[0]), versions(devices[0])
        self.threads = product_threads(devices[0])
        self.at_once = at_once
        self._initial, self._test_labels = initial, dataset.test.labels
        self._mesh = Mesh(np.array(devices), ("models",))
        setup = self._setup = Setup.of(config, dataset.pixels, dataset.classes)
        self._shapes = jax.eval_shape(partial(begin, setup), setup.shapes)
        self._train, self._test = jax.device_put(examples(dataset), NamedSharding(self._mesh, _SAME))
        self._draw: Any = jax.jit(self._of_all(partial(init_state, setup), 0))
        steps = steps_per_epoch(len(dataset.train), config.batch_size)

        def epoch(state: TrainState, words: jax.Array, labels: jax.Array, order: jax.Array) -> Any:
            return train_steps(setup, _unshared, state, words, labels, order, 0, steps)

        self._epoch: Any = jax.jit(self._of_all(epoch, 0, None, None, 0), donate_argnums=0)
        self._evaluate: Any = jax.jit(self._of_all(partial(evaluate, setup, _unshared), 0, None, None))
        self._models = 0
        self.state: TrainState

    def _of_all(self, program: Callable[..., Any], *axes: int | None) -> Callable[..., Any]:
        """`program` for all models at once: those of its arguments with axis 0 have one for each, as its results do."""

        def of_one(*arguments: Any) -> Any:
            own = [
                argument if axis is None else jax.tree.map(lambda leaf: leaf[0], argument)
                for argument, axis in zip(arguments, axes, strict=True)
            ]
            return jax.tree.map(lambda leaf: leaf[None], program(*own))

        # A vmapped program of one model has batched products, which are slower on a CPU.
        local = of_one if self.at_once == self._mesh.size else jax.vmap(program, in_axes=axes)
        specs = tuple(_SAME if axis is None else _SPREAD for axis in axes)
        return jax.shard_map(local, mesh=self._mesh, in_specs=specs, out_specs=_SPREAD)

    @property
    def peak_gpu_bytes(self) -> int | None:
        return peak_bytes(self._mesh.devices.flat[0])

    def compile(self) -> None:
        spread = NamedSharding(self._mesh, _SPREAD)

        def one_for_each(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.at_once, *leaf.shape), leaf.dtype, sharding=spread)

        order = jax.ShapeDtypeStruct(self._train[1].shape, np.int32)
        state, order = jax.tree.map(one_for_each, (self._shapes, order))
        with ThreadPoolExecutor(max_workers=3, thread_name_prefix="compile") as compilers:
            if self._initial is None:
                seeds = jax.ShapeDtypeStruct((self.at_once,), np.uint32, sharding=spread)
                draw = compilers.submit(self._draw.lower(seeds).compile, FOR_ONE_CALL)
            epoch = compilers.submit(self._epoch.lower(state, *self._train, order).compile)
            evaluate = compilers.submit(self._evaluate.lower(state.params, *self._test).compile)
            if self._initial is None:
                self._draw = draw.result()
            self._epoch, self._evaluate = epoch.result(), evaluate.result()

    def start(self, seeds: Sequence[int]) -> None:
        self._models = len(seeds)
        if self._initial is None:
            self.state = self._draw(self._for_each(np.array(seeds, np.uint32)))
            return
        with jax.default_device(self._mesh.devices.flat[0]):
            state = begin(self._setup, from_neutral(self._shapes.params, self._initial))
            self.state = jax.tree.map(lambda leaf: self._for_each(np.asarray(leaf)[None]), state)

    def _for_each(self, arrays: npt.NDArray[Any]) -> jax.Array:
        """On the devices, with the last one again for models that nobody asked for."""
        missing = self.at_once - len(arrays)
        full = np.concatenate([arrays, np.repeat(arrays[-1:], missing, axis=0)])
        placed: jax.Array = jax.device_put(full, NamedSharding(self._mesh, _SPREAD))
        return placed

    def train_steps(self, orders: npt.NDArray[np.int32]) -> Losses:
        self.state, losses = self._epoch(self.state, *self._train, self._for_each(orders))
        return np.asarray(jax.device_get(losses))[: self._models]

    def evaluate(self) -> list[Evaluation]:
        values = jax.device_get(self._evaluate(self.state.params, *self._test))
        return [evaluation(one, self._test_labels) for one in values[: self._models]]

    def parameters(self) -> list[Parameters]:
        stacked = jax.device_get(self.state.params)
        models = (jax.tree.map(lambda leaf, model=model: leaf[model], stacked) for model in range(self._models))
        return [to_neutral(model) for model in models]


def _unshared(batch: jax.Array) -> jax.Array:
    return batch
