"""Training in JAX: a whole epoch is one compiled program."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx

from jax_mlp.model import MLP, Params, build_model
from jax_mlp.optimizer import sgd
from jax_mlp.programs import epoch_program, evaluation, evaluation_program, pack, step_program, transposed
from jax_mlp.weights import from_neutral, to_neutral
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.metrics import Evaluation
from mlp_workload.trace import Trace, mlp_trace
from mlp_workload.weights import Parameters

_FOR_ONE_CALL: Any = {"xla_backend_optimization_level": 1}
"""Compiler options for the random numbers of the initial weights: the same bits after half the time."""


class Trainer:
    """See `mlp_workload.training.Trainer`. float64 needs `jax.enable_x64(True)` around all of it.

    What is on the device is `transposed`; what goes in and out is not.
    """

    framework = "jax"
    packages = ("jax", "jaxlib", "flax", "optax")

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        device = self._device = find_device(config.device)
        self.device = "cpu" if device.platform == "cpu" else f"{device.platform} ({device.device_kind})"
        self._test_labels = dataset.test.labels
        self._compilers = ThreadPoolExecutor(max_workers=3, thread_name_prefix="compile")

        def model(seed: Any) -> MLP:
            return build_model(config, config.widths(dataset.pixels, dataset.classes), seed)

        seed = np.uint32(config.seed)  # not a constant: the compiled program is for all of them
        self._start: Callable[[], Params]
        with jax.default_device(device):
            graph, self._shapes = nnx.split(nnx.eval_shape(model, seed))
            if initial is None:
                draw = jax.jit(lambda seed: transposed(nnx.split(model(seed))[1])).lower(seed)
                drawn = self._compilers.submit(draw.compile, _FOR_ONE_CALL)
                self._start = lambda: drawn.result()(seed)
            else:
                self._start = lambda: transposed(from_neutral(self._shapes, initial))
            (train, train_labels), test = (
                (examples.images.reshape(len(examples), -1), examples.labels)
                for examples in (dataset.train, dataset.test)
            )
            self._train, self._test = jax.device_put(((pack(train), train_labels), test), device)
        self._optimizer = sgd(config.learning_rate, config.momentum, config.nesterov, config.weight_decay)
        step = step_program(config, dataset.pixels, graph, self._optimizer)
        self._step: Any = jax.jit(step)
        self._epoch: Any = jax.jit(epoch_program(step, config.batch_size), donate_argnums=0)
        self._evaluate: Any = jax.jit(evaluation_program(config, graph))

    @cached_property
    def _state(self) -> Any:
        """The parameters and the optimizer's state."""
        with jax.default_device(self._device):
            params = jax.device_put(self._start())
            return jax.block_until_ready((params, self._optimizer.init(params)))

    def compile(self) -> None:
        order = jax.ShapeDtypeStruct(self._train[1].shape, np.int32)
        params = jax.eval_shape(transposed, self._shapes)
        state = params, jax.eval_shape(self._optimizer.init, params)
        with jax.default_device(self._device):
            epoch = self._compilers.submit(self._epoch.lower(state, *self._train, order).compile)
            evaluate = self._compilers.submit(self._evaluate.lower(params, *self._test).compile)
        _ = self._state
        self._epoch, self._evaluate = epoch.result(), evaluate.result()

    def run_epoch(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        self._state, losses = self._epoch(self._state, *self._train, order)
        return np.asarray(jax.device_get(losses))

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
        params = transposed(from_neutral(self._shapes, state))
        optimizer_state = self._state[1]
        if optax.tree.get(optimizer_state, "trace") is not None:
            velocity = {name: state[f"{name}.momentum"] for name in _neutral(params)}
            optimizer_state = optax.tree.set(optimizer_state, trace=transposed(from_neutral(self._shapes, velocity)))
        self._state = jax.device_put((params, optimizer_state), self._device)

    def trace_step(self, batch: npt.NDArray[np.int32]) -> Trace:
        self._state, (tensors, gradients) = self._step(self._state, *self._train, batch)
        return mlp_trace(jax.device_get(tensors) | _suffixed(_neutral(gradients), "grad") | self.state())


def _neutral(params: Params) -> Parameters:
    """Copies of what is on the device."""
    return to_neutral(transposed(jax.device_get(params)))


def _suffixed(parameters: Parameters, suffix: str) -> Parameters:
    return {f"{name}.{suffix}": array for name, array in parameters.items()}


def find_device(wanted: str) -> jax.Device:
    """The device for `--device auto|cpu|gpu`. Raises `UserError` where a GPU is wanted and there is none."""
    try:
        return jax.devices(None if wanted == "auto" else wanted)[0]
    except RuntimeError as error:
        raise UserError(f"--device {wanted}: JAX sees none ({error})") from error
