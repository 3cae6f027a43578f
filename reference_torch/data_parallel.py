"""Training in PyTorch by several processes, each with one device, through `DistributedDataParallel`."""

import gc
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.interface import Losses
from mlp_workload.metrics import Evaluation
from mlp_workload.weights import Parameters
from reference_torch.distributed import ProcessGroup
from reference_torch.loss import IGNORED
from reference_torch.model import HandWritten
from reference_torch.optimizer import make_optimizer
from reference_torch.step import normalize
from reference_torch.trainer import Trainer


class DataParallelTrainer(Trainer):
    """Trains on its slice of each batch and tests on its slice of the test set; returns results for the whole."""

    def __init__(self, group: ProcessGroup, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        on_gpu = config.device != "cpu" and torch.cuda.is_available()
        super().__init__(replace(config, devices=1, gpu=group.local_process if on_gpu else None), dataset, initial)
        self._group = group
        self._module = AsModule(self._model) if isinstance(self._model, HandWritten) else self._model
        self._optimizer = make_optimizer(config, self._model.parameters())

    @cached_property
    def _parallel(self) -> DistributedDataParallel:
        """The model, wrapped at the first step, when the processes are known to have equal weights.

        The wrapper would overwrite other weights with those of the first process, and fail on other shapes.
        """
        return DistributedDataParallel(self._module)

    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        losses = torch.tensor(super().train_steps(order, first, last))
        distributed.all_reduce(losses)
        return losses.numpy() / self._group.processes

    def close(self) -> None:
        """Releases the wrapper, so that nothing but torch keeps the process group.

        A thread of a group that lives until the interpreter ends may crash the process or hang it then:
        github.com/pytorch/pytorch/pull/179291.
        """
        vars(self).pop("_parallel", None)
        gc.collect()  # the wrapper is part of cycles

    def _step(self, batch: torch.Tensor) -> torch.Tensor:
        return self._update(self._loss(batch))

    def _loss(self, batch: torch.Tensor) -> torch.Tensor:
        """Returns the summed loss of this process's slice, times processes / batch size.

        `DistributedDataParallel` averages gradients over the processes. Scaled so, the average is the mean over the
        batch for slices of any size, also if one is empty.
        """
        own = self._slice(batch)
        images, labels = self._select(own)
        logits, smoothing = self._parallel(normalize(self._config, images)), self._config.label_smoothing
        total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing, ignore_index=IGNORED)
        return total * (self._group.processes / len(batch))

    def evaluate(self) -> Evaluation:
        parts: list[Any] = [None] * self._group.processes
        distributed.all_gather_object(parts, self._evaluation(*map(self._slice, self._test)))
        joined = ("losses", "predictions", "labels", "margins")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in joined}
        return Evaluation(**arrays, positive=np.any([part.positive for part in parts], axis=0))

    def max_over_processes(self, number: int) -> int:
        numbers = torch.tensor(number)
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return int(numbers)

    def _slice(self, examples: torch.Tensor) -> torch.Tensor:
        return examples.tensor_split(self._group.processes)[self._group.process]


class AsModule(nn.Module):
    """Wraps a hand-written model for `DistributedDataParallel`: its tensors become parameters of a module."""

    def __init__(self, model: HandWritten) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(model.weights), nn.ParameterList(model.biases)
        model.weights, model.biases = list(self.weights), list(self.biases)
        self._model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._model(x)
