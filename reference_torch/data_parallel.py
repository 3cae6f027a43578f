"""Training in PyTorch by several processes, each with one device: `DistributedDataParallel`."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import PeerLost, UserError
from mlp_workload.interface import MakeTrainer
from mlp_workload.metrics import Evaluation
from mlp_workload.run.joining import join_others
from mlp_workload.run.signals import Stopped
from mlp_workload.weights import Parameters
from reference_torch.distributed import Rank
from reference_torch.loss import IGNORED
from reference_torch.model import HandWritten
from reference_torch.optimizer import make_optimizer
from reference_torch.step import normalize
from reference_torch.trainer import Trainer, gather

_SECONDS = 45
"""How long a process waits for another."""
_LOST = r"gloo|nccl|connection|peer|timed? ?out|store"
"""In what torch says where a process is not there any more."""


@contextlib.contextmanager
def joined(rank: Rank, config: Config) -> Iterator[MakeTrainer]:
    """Joined with the other processes until all are done. Raises `UserError` where they don't come, or there is no GPU
    for this one, and `PeerLost` where one ends before."""
    backend = "gloo"
    if config.device != "cpu" and torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        if rank.local >= (seen := torch.cuda.device_count()):
            raise UserError(f"--devices {config.devices}: torch sees {seen} GPUs for the processes of this machine")
        torch.cuda.set_device(rank.local)
    join = partial(
        distributed.init_process_group,
        backend,
        rank=rank.rank,
        world_size=rank.world,
        timeout=timedelta(seconds=_SECONDS),
    )
    try:
        join_others(rank.world, join)
    except ValueError as error:
        raise UserError(f"several processes need torchrun ({error})") from error
    try:
        yield partial(RankTrainer, rank)
    except Stopped:
        distributed.destroy_process_group()
        raise
    except RuntimeError as error:
        if re.search(_LOST, str(error), re.I):
            raise PeerLost(error) from error
        raise
    distributed.destroy_process_group()


class RankTrainer(Trainer):
    """Trains on its slice of each batch, and tests on its slice of the test set; what it returns is of the whole."""

    def __init__(self, rank: Rank, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        on_gpu = config.device != "cpu" and torch.cuda.is_available()
        super().__init__(replace(config, devices=1, gpu=rank.local if on_gpu else None), dataset, initial)
        self._rank = rank
        self._module = AsModule(self._model) if isinstance(self._model, HandWritten) else self._model
        self._optimizer = make_optimizer(config, self._model.parameters())

    @cached_property
    def _parallel(self) -> DistributedDataParallel:
        """Made at the first step, when the processes are known to be alike: it would end with a model of other shapes
        in its own words, and take the first process's weights for others."""
        return DistributedDataParallel(self._module)

    def run_epoch(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        losses = torch.tensor(super().run_epoch(order))
        distributed.all_reduce(losses)
        return losses.numpy() / self._rank.world

    def _step(self, batch: torch.Tensor) -> torch.Tensor:
        return self._update(self._loss(batch))

    def _loss(self, batch: torch.Tensor) -> torch.Tensor:
        """Of this process's slice: so that the mean over the processes, which DistributedDataParallel takes of the
        gradients, is the mean over the batch, whatever the slices' sizes; one may be empty."""
        own = self._slice(batch)
        logits = self._parallel(normalize(self._config, gather(self._images, own)))
        labels, smoothing = gather(self._labels, own), self._config.label_smoothing
        total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing, ignore_index=IGNORED)
        return total * (self._rank.world / len(batch))

    def evaluate(self) -> Evaluation:
        parts: list[Any] = [None] * self._rank.world
        distributed.all_gather_object(parts, self._evaluation(*map(self._slice, self._test)))
        return Evaluation.of_parts(parts)

    def max_over_processes(self, number: int) -> int:
        numbers = torch.tensor(number)
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return int(numbers)

    def _slice(self, examples: torch.Tensor) -> torch.Tensor:
        return examples.tensor_split(self._rank.world)[self._rank.rank]


class AsModule(nn.Module):
    """A hand-written model as `DistributedDataParallel` takes it: its tensors become parameters."""

    def __init__(self, model: HandWritten) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(model.weights), nn.ParameterList(model.biases)
        model.weights, model.biases = list(self.weights), list(self.biases)
        self._model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._model(x)
