"""Training in NumPy, a step at a time."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.numpy_side.mlp import cross_entropy, forward, forward_backward, one_hot
from mlp_workload.batches import EVALUATED_AT_ONCE
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.interface import Array, Losses, step_tensors
from mlp_workload.metrics import Evaluation
from mlp_workload.optimizer import initial_state, update
from mlp_workload.weights import Parameters, is_parameter


class Trainer:
    """See `mlp_workload.interface.Trainer`."""

    framework = "numpy"
    packages = ("numpy",)
    device = "cpu"
    gpu_versions: Mapping[str, str] = {}
    threads = None
    peak_gpu_bytes = None

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        if config.dtype != "float64":
            raise UserError(f"--dtype must be float64 in NumPy, got {config.dtype}")
        if config.device == "gpu" or config.gpu is not None:
            raise UserError("--device must be cpu in NumPy, got a GPU")
        if config.devices > 1:
            raise UserError(f"--devices must be 1 in NumPy, got {config.devices}")
        widths = config.widths(dataset.pixels, dataset.classes)
        if initial is None:
            initial = initial_parameters(config.initialization, widths, config.seed)
        self._config, self._dataset = config, dataset
        self._activations = [*[config.activation] * len(config.hidden), config.logits_activation]
        self._state = initial_state(config, initial)

    def compile(self) -> None:
        """Nothing."""

    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        size = self._config.batch_size
        batches = np.split(order, range(size, len(order), size))[first:last]
        return np.array([self._step(batch)["loss"] for batch in batches])

    def evaluate(self) -> Evaluation:
        test = self._dataset.test
        parts = [test.images[i : i + EVALUATED_AT_ONCE] for i in range(0, len(test), EVALUATED_AT_ONCE)]
        logits = np.concatenate([self._logits(images) for images in parts])
        losses, _ = cross_entropy(logits, one_hot(test.labels, self._dataset.classes))
        predictions = logits.argmax(axis=1)
        others = np.where(one_hot(predictions, self._dataset.classes) == 1, -np.inf, logits)
        margins = logits.max(axis=1) - others.max(axis=1)
        return Evaluation(losses, predictions, test.labels, np.any(logits > 0, axis=0), margins)

    def parameters(self) -> Parameters:
        return {name: array for name, array in self.state().items() if is_parameter(name)}

    def state(self) -> Parameters:
        return {name: array.copy() for name, array in self._state.items()}

    def load_state(self, state: Parameters) -> None:
        self._state = {name: np.array(state[name], np.float64) for name in self._state}

    def max_over_processes(self, number: int) -> int:
        return number

    def profile(self, folder: Path) -> AbstractContextManager[Any]:
        raise UserError("--profile: NumPy has no profiler")

    def trace_step(self, batch: npt.NDArray[np.int32]) -> dict[str, Array]:
        return step_tensors(self._step(batch) | self.state())

    def _step(self, batch: npt.NDArray[np.int32]) -> dict[str, npt.NDArray[Any]]:
        """Trains on the examples `batch` (b,)."""
        config, train = self._config, self._dataset.train
        images, labels = train.images[batch].reshape(len(batch), -1), train.labels[batch]
        x = self._inputs(images)
        tensors = forward_backward(self._state, self._activations, x, labels, config.label_smoothing)
        gradients = {name: tensors[f"{name}.grad"] for name in self._state if is_parameter(name)}
        self._state = update(config, self._state, gradients)
        return {"batch.images": images, "batch.labels": labels, "inputs": x, **tensors}

    def _logits(self, images: npt.NDArray[np.uint8]) -> Array:
        return forward(self._state, self._activations, self._inputs(images))["logits"]

    def _inputs(self, images: npt.NDArray[np.uint8]) -> Array:
        """uint8 (n, ...) to 0..1, then standardised as the preset says: (n, pixels)."""
        pixels = images.reshape(len(images), -1) / np.float64(255)
        return (pixels - self._config.pixel_mean) / self._config.pixel_std
