"""Several models that train at once, in the forms that PyTorch's users choose: `mlp_compare.bench` times them.

Each trains `models` models from the same weights by plain SGD, `train_steps` each of them over its row of `orders`
(models, n), and has `parameters` of the first one.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.environment.description import usable_cores
from mlp_workload.weights import Parameters
from reference_torch.loss import IGNORED
from reference_torch.model import MLP
from reference_torch.step import normalize
from reference_torch.trainer import Trainer, gather
from reference_torch.variants import ByHand
from reference_torch.weights import neutral_names

Orders = npt.NDArray[np.int32]
Losses = npt.NDArray[np.floating[Any]]


class InTurn:
    """One after another."""

    packages = Trainer.packages

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> None:
        self._trainers = [ByHand(config, dataset, initial) for _ in range(models)]
        self.device = self._trainers[0].device

    def compile(self) -> None:
        """Nothing: eager torch compiles nothing."""

    def train_steps(self, orders: Orders) -> Losses:
        return np.stack([trainer.train_steps(order) for trainer, order in zip(self._trainers, orders, strict=True)])

    def parameters(self) -> Parameters:
        return self._trainers[0].parameters()


class Vmapped(Trainer):
    """One model of stacked parameters, by `torch.func.vmap`."""

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> None:
        super().__init__(config, dataset, initial)
        model = self._model
        assert isinstance(model, MLP), "preset relu's is no module, which torch.func asks for"
        self._stacked = {
            name: parameter.detach().expand(models, *parameter.shape).clone()
            for name, parameter in model.named_parameters()
        }

        def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(torch.func.functional_call(model, parameters, (x,)), y, ignore_index=IGNORED)

        self._gradients_and_losses = torch.func.vmap(torch.func.grad_and_value(loss))

    @torch.no_grad()
    def train_steps(self, order: Orders, first: int = 0, last: int | None = None) -> Losses:
        batches = self._indices(order).split(self._config.batch_size, dim=1)[first:last]
        losses = [self._step(batch) for batch in batches]
        return torch.stack(losses, dim=1).cpu().numpy()

    def _step(self, batch: torch.Tensor) -> torch.Tensor:
        images, labels = gather(self._images, batch.flatten()), gather(self._labels, batch.flatten())
        x = normalize(self._config, images).view(*batch.shape, -1)
        gradients, losses = self._gradients_and_losses(self._stacked, x, labels.view(batch.shape))
        for name, parameters in self._stacked.items():
            parameters.sub_(gradients[name], alpha=self._config.learning_rate)
        result: torch.Tensor = losses
        return result

    def parameters(self) -> Parameters:
        names = neutral_names(self._model)
        return {name: own[0].cpu().numpy() for name, own in zip(names, self._stacked.values(), strict=True)}


class Processes:
    """A process for each core, with one thread and its share of the models, one after another."""

    packages = Trainer.packages
    device = "cpu"

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> None:
        shares = np.array_split(np.arange(models), min(usable_cores(), models))
        self._processes = [
            ProcessPoolExecutor(
                1, get_context("spawn"), initializer=_begin, initargs=(config, dataset, initial, len(share))
            )
            for share in shares
        ]
        self._ends = np.cumsum([len(share) for share in shares])[:-1]

    def compile(self) -> None:
        """Waits until each is ready."""
        for waiting in [process.submit(_parameters) for process in self._processes]:
            waiting.result()

    def train_steps(self, orders: Orders) -> Losses:
        shares = zip(self._processes, np.split(orders, self._ends), strict=True)
        running = [process.submit(_train_steps, own) for process, own in shares]
        return np.concatenate([each.result() for each in running])

    def parameters(self) -> Parameters:
        return self._processes[0].submit(_parameters).result()


_models: InTurn
"""Those of one of the `Processes`, in it."""


def _begin(config: Config, dataset: Dataset, initial: Parameters, models: int) -> None:
    global _models
    torch.set_num_threads(1)
    _models = InTurn(config, dataset, initial, models)


def _train_steps(orders: Orders) -> Losses:
    return _models.train_steps(orders)


def _parameters() -> Parameters:
    return _models.parameters()
