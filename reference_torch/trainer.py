"""Training in PyTorch: eager steps, the update by `torch.optim`."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import profiler

from mlp_workload.batches import EVALUATED_AT_ONCE
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.interface import Array, Losses, step_tensors
from mlp_workload.metrics import Evaluation
from mlp_workload.weights import Parameters
from reference_torch.device import OnDevice, find_device
from reference_torch.loss import cross_entropy
from reference_torch.model import build_model
from reference_torch.optimizer import make_optimizer, slots_from_canonical, slots_to_canonical
from reference_torch.step import eval_step, train_step
from reference_torch.weights import load_canonical, named_parameters, to_canonical


class Trainer(OnDevice):
    """See `mlp_workload.interface.Trainer`."""

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        device = find_device(config)
        super().__init__(device)
        self._config = config
        with torch.random.fork_rng(devices=[]):  # the weights are drawn on the CPU
            torch.manual_seed(config.seed)
            self._model = build_model(config, config.widths(dataset.pixels, dataset.classes)).to(device)
        if initial is not None:
            load_canonical(self._model, initial)
        self._optimizer = make_optimizer(config, self._model.parameters())
        (self._images, self._labels), self._test = (
            (
                torch.tensor(examples.images.reshape(len(examples), -1), device=device),
                torch.tensor(examples.labels, dtype=torch.int64, device=device),
            )
            for examples in (dataset.train, dataset.test)
        )

    def compile(self) -> None:
        """Does nothing: eager torch compiles nothing."""

    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        batches = self._indices(order).split(self._config.batch_size)[first:last]
        return torch.stack([self._step(batch) for batch in batches]).cpu().numpy()

    def _indices(self, order: npt.NDArray[np.int32]) -> torch.Tensor:
        return torch.tensor(order, dtype=torch.int64, device=self._labels.device)

    def _step(self, batch: torch.Tensor) -> torch.Tensor:
        """Trains on the examples `batch` (b,); returns the loss."""
        return train_step(self._config, self._model, self._optimizer, *self._select(batch))["loss"]

    def _select(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the images (b, pixels) and labels (b,) of the examples `batch` (b,)."""
        return gather(self._images, batch), gather(self._labels, batch)

    def _update(self, loss: torch.Tensor) -> torch.Tensor:
        """Updates the model by the gradients of a variant's own `loss`, which is returned."""
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def evaluate(self) -> Evaluation:
        return self._evaluation(*self._test)

    def _evaluation(self, images: torch.Tensor, labels: torch.Tensor) -> Evaluation:
        """Evaluates images (n, pixels), uint8, with their labels (n,)."""
        parts = images.split(EVALUATED_AT_ONCE)
        logits = torch.cat([eval_step(self._config, self._model, part) for part in parts])
        losses, predictions = cross_entropy(logits, labels).per_example, logits.argmax(dim=-1)
        positive = (logits > 0).any(dim=0)
        others = logits.scatter(1, predictions[:, None], -torch.inf)
        margins = logits.amax(dim=-1) - others.amax(dim=-1)
        return Evaluation(*(tensor.cpu().numpy() for tensor in (losses, predictions, labels, positive, margins)))

    def parameters(self) -> Parameters:
        return to_canonical(self._model)

    def state(self) -> Parameters:
        return self.parameters() | slots_to_canonical(self._config, self._optimizer, named_parameters(self._model))

    def load_state(self, state: Parameters) -> None:
        load_canonical(self._model, state)
        slots_from_canonical(self._config, self._optimizer, named_parameters(self._model), state)

    def max_over_processes(self, number: int) -> int:
        return number

    def profile(self, folder: Path) -> AbstractContextManager[Any]:
        return profiler.profile(on_trace_ready=profiler.tensorboard_trace_handler(str(folder)))

    def trace_step(self, batch: npt.NDArray[np.int32]) -> dict[str, Array]:
        examples = self._select(self._indices(batch))
        tensors = train_step(self._config, self._model, self._optimizer, *examples, traced=True)
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        arrays["batch.labels"] = arrays["batch.labels"].astype(np.int32)
        return step_tensors(arrays | self.state())


def gather(examples: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """The rows (b, ...) of `examples` (n, ...) that `batch` (b,) names."""
    return examples.index_select(0, batch)
