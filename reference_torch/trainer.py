"""Training in PyTorch: eager steps, the update by `torch.optim`."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.metrics import Evaluation
from mlp_workload.weights import Parameters
from reference_torch.loss import cross_entropy
from reference_torch.model import build_model
from reference_torch.optimizer import sgd
from reference_torch.weights import load_neutral, to_neutral

_EVALUATED_AT_ONCE = 2000
"""Test examples whose activations are in memory together; fits a processor's cache."""


class Trainer:
    """See `mlp_workload.training.Trainer`."""

    framework = "torch"
    packages = ("torch",)

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        device = find_device(config.device)
        self.device = "cpu" if device.type == "cpu" else f"gpu ({torch.cuda.get_device_name(device)})"
        self._config = config
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self._model = build_model(config, config.widths(dataset.pixels, dataset.classes)).to(device)
        if initial is not None:
            load_neutral(self._model, initial)
        self._optimizer = sgd(
            self._model.parameters(), config.learning_rate, config.momentum, config.nesterov, config.weight_decay
        )
        (self._images, self._labels), self._test = (
            (
                torch.tensor(examples.images.reshape(len(examples), -1), device=device),
                torch.tensor(examples.labels, dtype=torch.int64, device=device),
            )
            for examples in (dataset.train, dataset.test)
        )

    def compile(self) -> None:
        """Nothing: eager torch compiles nothing."""

    def run_epoch(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        batches = torch.tensor(order, device=self._labels.device).split(self._config.batch_size)
        return torch.stack([self._step(batch) for batch in batches]).cpu().numpy()

    def _step(self, batch: torch.Tensor) -> torch.Tensor:
        x, y = normalize(self._config, self._images[batch]), self._labels[batch]
        loss = cross_entropy(self._model(x), y, self._config.label_smoothing).mean
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        images, labels = self._test
        logits = torch.cat([self._model(normalize(self._config, part)) for part in images.split(_EVALUATED_AT_ONCE)])
        losses, predictions = cross_entropy(logits, labels).per_example, logits.argmax(dim=-1)
        positive = (logits > 0).any(dim=0)
        return Evaluation(*(tensor.cpu().numpy() for tensor in (losses, predictions, labels, positive)))

    def parameters(self) -> Parameters:
        return to_neutral(self._model)


def normalize(config: Config, images: torch.Tensor) -> torch.Tensor:
    """uint8 to the run's dtype: to 0..1, then standardised if the preset says so."""
    x = images.to(getattr(torch, config.dtype)) / 255
    return (x - config.pixel_mean) / config.pixel_std if (config.pixel_mean, config.pixel_std) != (0, 1) else x


def find_device(wanted: str) -> torch.device:
    """The device for `--device auto|cpu|gpu`. Raises `UserError` where a GPU is wanted and there is none."""
    if wanted == "gpu" and not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        raise UserError(f"--device gpu: torch sees none (this torch is built for {built})")
    return torch.device("cpu" if wanted == "cpu" or not torch.cuda.is_available() else "cuda")
