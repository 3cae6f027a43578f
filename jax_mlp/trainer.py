"""Training in JAX: a whole epoch is one compiled program."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jax_mlp.device import OnDevice
from jax_mlp.epoch import FOR_ONE_CALL, evaluate, evaluation, in_chunks, pack, trace_step, train_steps
from jax_mlp.model import Params
from jax_mlp.optimizer import slots_from_canonical, slots_to_canonical
from jax_mlp.sharding import device_put, find_mesh, to_host
from jax_mlp.step import Setup, TrainState, begin, init_state
from jax_mlp.weights import from_canonical, to_canonical
from mlp_workload.batches import steps_per_epoch
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.interface import Array, Losses, step_tensors
from mlp_workload.metrics import Evaluation
from mlp_workload.weights import Parameters


class Trainer(OnDevice):
    """See `mlp_workload.interface.Trainer`. float64 needs `jax.enable_x64(True)` around all of it."""

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        mesh = self._mesh = find_mesh(config)
        super().__init__(mesh.mesh.local_devices[0])
        self._test_labels = dataset.test.labels
        self._compilers = ThreadPoolExecutor(max_workers=3, thread_name_prefix="compile")

        self._start: Callable[[], TrainState]
        setup = self._setup = Setup.of(config, dataset.pixels, dataset.classes)
        self._shapes = jax.eval_shape(partial(begin, setup), setup.shapes)
        self._shardings = mesh.state_shardings(self._shapes, setup.optimizer)
        results = self._shardings, mesh.replicated
        if initial is None:
            seed = np.uint32(config.seed)
            drawing = jax.jit(partial(init_state, setup), out_shardings=self._shardings).lower(seed)
            drawn = self._compilers.submit(drawing.compile, FOR_ONE_CALL)
            self._start = lambda: drawn.result()(seed)
        else:
            self._start = lambda: self._begin(initial)
        train, (images, labels) = examples(dataset, mesh.mesh.size // config.split_hidden)
        self._train = device_put(train, mesh.replicated)
        self._test = device_put(images, mesh.chunked), device_put(labels, mesh.replicated)
        on_devices = setup, mesh.shard_batch
        self._jitted_steps = jax.jit(partial(train_steps, *on_devices), donate_argnums=0, out_shardings=results)
        self._jitted_evaluate = jax.jit(partial(evaluate, *on_devices), out_shardings=mesh.replicated)
        self._train_steps: Callable[..., tuple[TrainState, jax.Array]] = self._jitted_steps
        self._evaluate: Callable[..., jax.Array] = self._jitted_evaluate
        self._trace_step = jax.jit(partial(trace_step, *on_devices), out_shardings=(self._shardings, None, None))
        self._batch_size = config.batch_size

    @cached_property
    def _state(self) -> TrainState:
        state: TrainState = jax.block_until_ready(self._start())
        return state

    def _begin(self, initial: Parameters) -> TrainState:
        """Returns the state before the first step, each part of it only where the mesh has it."""
        return begin(self._setup, device_put(from_canonical(self._shapes.params, initial), self._shardings.params))

    def compile(self) -> None:
        order = jax.ShapeDtypeStruct(self._train[1].shape, np.int32, sharding=self._mesh.replicated)
        state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self._shapes,
            self._shardings,
        )
        number = np.int32(0)
        steps = self._compilers.submit(self._jitted_steps.lower(state, *self._train, order, number, number).compile)
        evaluate = self._compilers.submit(self._jitted_evaluate.lower(state.params, *self._test).compile)
        _ = self._state
        self._train_steps, self._evaluate = steps.result(), evaluate.result()

    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        last = steps_per_epoch(len(order), self._batch_size) if last is None else last
        self._state, losses = self._train_steps(self._state, *self._train, order, np.int32(first), np.int32(last))
        return np.asarray(jax.device_get(losses))[first:last]

    def evaluate(self) -> Evaluation:
        values = jax.device_get(self._evaluate(self._state.params, *self._test))
        return evaluation(values, self._test_labels)

    def parameters(self) -> Parameters:
        return _canonical(self._state.params)

    def state(self) -> Parameters:
        return self.parameters() | slots_to_canonical(self._setup.config, to_host(self._state.optimizer))

    def load_state(self, state: Parameters) -> None:
        params = from_canonical(self._shapes.params, state)
        optimizer = slots_from_canonical(self._setup.config, self._state.optimizer, state)
        self._state = device_put(TrainState(params, optimizer), self._shardings)

    def max_over_processes(self, number: int) -> int:
        return self._mesh.max_over_processes(number)

    def profile(self, folder: Path) -> AbstractContextManager[Any]:
        return jax.profiler.trace(folder, create_perfetto_trace=True)

    def trace_step(self, batch: npt.NDArray[np.int32]) -> dict[str, Array]:
        self._state, tensors, gradients = self._trace_step(self._state, *self._train, batch)
        arrays = jax.device_get(tensors) | {f"{name}.grad": array for name, array in _canonical(gradients).items()}
        return step_tensors(arrays | self.state())


def examples(dataset: Dataset, shards: int = 1) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Returns the training words and labels, and the test images and labels, for programs on so many devices."""
    train, test = (part.images.reshape(len(part), -1) for part in (dataset.train, dataset.test))
    return (pack(train), dataset.train.labels), (in_chunks(test, shards), dataset.test.labels)


def _canonical(params: Params) -> Parameters:
    return to_canonical(to_host(params))
