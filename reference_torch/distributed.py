"""A run of several processes, started by torchrun, each with one device."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from mlp_workload.config import Config
from mlp_workload.errors import UserError
from mlp_workload.run.process_group import joined

_ALONE = "unset WORLD_SIZE to train in one process"


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one run, and which of them this is. Processes count from 0."""

    process: int
    processes: int
    local_process: int
    """Number of this process among those of its machine."""

    @classmethod
    def from_environment(cls) -> "ProcessGroup":
        """Reads RANK, WORLD_SIZE and LOCAL_RANK. Raises `UserError` if they contradict each other."""
        processes = _world_size()
        if processes == 1:
            return cls(0, 1, 0)
        group = cls(_number("RANK"), processes, _number("LOCAL_RANK"))
        if group.process >= processes:
            raise UserError(f"RANK must be below WORLD_SIZE {processes}, got {group.process}")
        return group

    @classmethod
    def for_run(cls, config: Config) -> "ProcessGroup":
        """Returns the group of a run. Raises `UserError` unless it has one process for each of the run's devices."""
        processes = _world_size()
        if config.split_hidden > 1:
            raise UserError(f"--split-hidden must be 1 in torch, got {config.split_hidden}; jax_mlp.train splits")
        if config.devices != processes:
            how = f"start it as torchrun --nproc-per-node {config.devices} -m reference_torch.train"
            if processes > 1:
                started = f"torchrun started {processes} processes, as WORLD_SIZE says"
                how = f"{started}: give --devices {processes}, or {_ALONE}"
            raise UserError(f"--devices {config.devices}: torch needs a process for each; {how}")
        return cls.from_environment()

    @property
    def is_first(self) -> bool:
        return self.process == 0

    @contextlib.contextmanager
    def join(self, config: Config) -> Iterator[None]:
        """Joins the other processes, and leaves them when all are done.

        Raises `UserError` if the others do not come or this process has no GPU, and `PeerLost` if one ends early.
        """
        import torch
        import torch._dynamo  # before the group is made: its import would keep the group, and its threads, for ever
        from torch import distributed

        backend = "gloo"
        if config.device != "cpu" and torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            if self.local_process >= (seen := torch.cuda.device_count()):
                raise UserError(f"--devices {config.devices}: torch sees {seen} GPUs for the processes of this machine")
            torch.cuda.set_device(self.local_process)
        join = partial(
            distributed.init_process_group,
            backend,
            rank=self.process,
            world_size=self.processes,
            timeout=timedelta(seconds=45),
        )
        lost = r"gloo|nccl|connection|peer|timed? ?out|store"
        with joined(self.processes, join, distributed.destroy_process_group, "torchrun", lost):
            yield


def _world_size() -> int:
    return max(_number("WORLD_SIZE"), 1) if "WORLD_SIZE" in os.environ else 1


def _number(name: str) -> int:
    value = os.environ.get(name, "nothing")
    if not value.isdecimal():
        raise UserError(f"{name}, which torchrun sets, must be a whole number, got {value}; {_ALONE}")
    return int(value)
