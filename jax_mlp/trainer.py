"""Training in JAX: a whole epoch is one compiled program."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import optax

from jax_mlp.device import device_name, find_device, peak_bytes, versions
from jax_mlp.model import Params
from jax_mlp.programs import FOR_ONE_CALL, Programs, evaluation, pack, transposed
from jax_mlp.weights import from_neutral, to_neutral
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.metrics import Evaluation
from mlp_workload.trace import Trace, mlp_trace
from mlp_workload.weights import Parameters


class Trainer:
    """See `mlp_workload.training.Trainer`. float64 needs `jax.enable_x64(True)` around all of it.

    What is on the device is `transposed`; what goes in and out is not.
    """

    framework = "jax"
    packages = ("jax", "jaxlib", "flax", "optax")

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        device = self._device = find_device(config)
        self.device, self.gpu_versions = device_name(device), versions(device)
        self._test_labels = dataset.test.labels
        self._compilers = ThreadPoolExecutor(max_workers=3, thread_name_prefix="compile")

        self._start: Callable[[], Any]
        with jax.default_device(device):
            programs = self._programs = Programs(config, dataset.pixels, dataset.classes)
            if initial is None:
                seed = np.uint32(config.seed)
                drawn = self._compilers.submit(jax.jit(programs.draw).lower(seed).compile, FOR_ONE_CALL)
                self._start = lambda: drawn.result()(seed)
            else:
                self._start = lambda: programs.begin(from_neutral(programs.shapes, initial))
        self._train, self._test = jax.device_put(examples(dataset), device)
        self._step: Any = jax.jit(programs.step)
        self._epoch: Any = jax.jit(programs.epoch, donate_argnums=0)
        self._part: Any = jax.jit(programs.part, donate_argnums=0)
        self._last_batch: Any = jax.jit(programs.epoch, donate_argnums=0)
        self._evaluate: Any = jax.jit(programs.evaluate)
        self._batch_size, self._dtype = config.batch_size, config.dtype

    @cached_property
    def _state(self) -> Any:
        """The parameters and the optimizer's state."""
        with jax.default_device(self._device):
            return jax.block_until_ready(jax.device_put(self._start()))

    @property
    def peak_gpu_bytes(self) -> int | None:
        return peak_bytes(self._device)

    def compile(self) -> None:
        order = jax.ShapeDtypeStruct(self._train[1].shape, np.int32)
        state = jax.eval_shape(self._programs.begin, self._programs.shapes)
        with jax.default_device(self._device):
            epoch = self._compilers.submit(self._epoch.lower(state, *self._train, order).compile)
            evaluate = self._compilers.submit(self._evaluate.lower(state[0], *self._test).compile)
        _ = self._state
        self._epoch, self._evaluate = epoch.result(), evaluate.result()

    def run_epoch(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        self._state, losses = self._epoch(self._state, *self._train, order)
        return np.asarray(jax.device_get(losses))

    def compile_steps(self) -> None:
        order = np.zeros(self._train[1].shape, np.int32)
        full, rest = divmod(len(order), self._batch_size)
        losses, number = np.zeros(full, self._dtype), np.int32(0)
        with jax.default_device(self._device):
            part = self._compilers.submit(
                self._part.lower(self._state, *self._train, order, losses, number, number).compile
            )
            if rest:
                last = self._last_batch.lower(self._state, *self._train, order[-rest:])
                self._last_batch = last.compile()
        self._part = part.result()

    def run_steps(self, order: npt.NDArray[np.int32], first: int, last: int) -> npt.NDArray[np.floating[Any]]:
        full = len(order) // self._batch_size
        end = min(last, full)
        self._state, losses = self._part(
            self._state, *self._train, order, np.zeros(full, self._dtype), np.int32(first), np.int32(end)
        )
        losses = jax.device_get(losses)[first:end]
        if last == end:
            return np.asarray(losses)
        self._state, loss = self._last_batch(self._state, *self._train, order[full * self._batch_size :])
        return np.concatenate([losses, jax.device_get(loss)])

    def evaluate(self) -> Evaluation:
        values = jax.device_get(self._evaluate(self._state[0], *self._test))
        return evaluation(values, self._test_labels)

    def parameters(self) -> Parameters:
        return _neutral(self._state[0])

    def state(self) -> Parameters:
        params, optimizer_state = self._state
        velocity = optax.tree.get(optimizer_state, "trace")
        return _neutral(params) | ({} if velocity is None else _suffixed(_neutral(velocity), "momentum"))

    def load_state(self, state: Parameters) -> None:
        params = transposed(from_neutral(self._programs.shapes, state))
        optimizer_state = self._state[1]
        if optax.tree.get(optimizer_state, "trace") is not None:
            velocity = {name: state[f"{name}.momentum"] for name in _neutral(params)}
            optimizer_state = optax.tree.set(
                optimizer_state, trace=transposed(from_neutral(self._programs.shapes, velocity))
            )
        self._state = jax.device_put((params, optimizer_state), self._device)

    def trace_step(self, batch: npt.NDArray[np.int32]) -> Trace:
        self._state, (tensors, gradients) = self._step(self._state, *self._train, batch)
        return mlp_trace(jax.device_get(tensors) | _suffixed(_neutral(gradients), "grad") | self.state())


def examples(dataset: Dataset) -> Any:
    """Training words and labels, test images and labels, as the programs take them."""
    train, test = (part.images.reshape(len(part), -1) for part in (dataset.train, dataset.test))
    return (pack(train), dataset.train.labels), (test, dataset.test.labels)


def _neutral(params: Params) -> Parameters:
    """Copies of what is on the device."""
    return to_neutral(transposed(jax.device_get(params)))


def _suffixed(parameters: Parameters, suffix: str) -> Parameters:
    return {f"{name}.{suffix}": array for name, array in parameters.items()}
