"""Which process of a run this is, as torchrun says."""

import os
from dataclasses import dataclass

from mlp_workload.config import Config
from mlp_workload.errors import UserError

_ALONE = "unset WORLD_SIZE to train in one process"


@dataclass(frozen=True)
class Rank:
    """Process `rank` of `world`, on its machine the one of number `local`, all from 0."""

    rank: int
    world: int
    local: int

    @classmethod
    def here(cls) -> "Rank":
        """By RANK, WORLD_SIZE and LOCAL_RANK. Raises `UserError` where these make no sense."""
        world = _world()
        if world == 1:
            return cls(0, 1, 0)
        found = cls(_number("RANK"), world, _number("LOCAL_RANK"))
        if found.rank >= world:
            raise UserError(f"RANK must be below WORLD_SIZE {world}, got {found.rank}")
        return found

    @classmethod
    def of(cls, config: Config) -> "Rank":
        """As `here`. Raises `UserError` where the run has another number of devices than there are processes, each of
        which has one."""
        world = _world()
        if config.split_hidden > 1:
            raise UserError(f"--split-hidden must be 1 in torch, got {config.split_hidden}; jax_mlp.train splits")
        if config.devices != world:
            command = f"torchrun --nproc-per-node {config.devices} -m reference_torch.train"
            started = f"torchrun started {world} processes, as WORLD_SIZE says: give --devices {world}, or {_ALONE}"
            how = f"start it as {command}" if world == 1 else started
            raise UserError(f"--devices {config.devices}: torch takes a process for each; {how}")
        return cls.here()

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def _world() -> int:
    return max(_number("WORLD_SIZE"), 1) if "WORLD_SIZE" in os.environ else 1


def _number(name: str) -> int:
    said = os.environ.get(name, "nothing")
    if not said.isdecimal():
        raise UserError(f"{name}, which torchrun sets, must be a whole number, got {said}; {_ALONE}")
    return int(said)
