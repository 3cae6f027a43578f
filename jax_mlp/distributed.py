"""Several processes, on one machine or many, that are one run."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from mlp_workload.config import check_divisible
from mlp_workload.errors import PeerLost, UserError
from mlp_workload.run.checkpointing import Finished
from mlp_workload.run.joining import JOIN_SECONDS, join_others
from mlp_workload.run.signals import Stopped

_LAUNCHERS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
)
"""By which variables SLURM and Open MPI say how many processes they started together, which of them this is, and which
on its machine. The shell of a SLURM job has a number of tasks too (SLURM_NTASKS), but is a step of one."""
_HEARTBEAT_SECONDS = 20
"""How long processes wait for one that does not answer."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Which of a run's processes this one is."""

    coordinator: str | None = None
    """Address HOST:PORT of the first process; by default as SLURM or Open MPI say."""
    processes: int | None = None
    """Number of processes that share the --devices; by default as SLURM or Open MPI say."""
    process: int | None = None
    """Number of this process, from 0; by default as SLURM or Open MPI say."""

    def among(self, devices: int) -> "Cluster":
        """With what the flags leave open, for a run on so many devices. Raises `UserError` where it makes no sense."""
        found = self
        if devices > 1 and (launched := _launched()) and self.processes in (None, launched[0]):
            if self.process not in (None, launched[1]):
                raise UserError(f"--process {self.process}: its launcher calls this process {launched[1]}")
            found = replace(self, processes=launched[0], process=launched[1])
        found = replace(found, processes=1 if found.processes is None else found.processes)
        assert found.processes is not None
        if found.processes > 1 and found.process is None:
            raise UserError(f"--processes {found.processes} needs --process, from 0 to {found.processes - 1}")
        if found.processes == 1 and self.coordinator is not None:
            raise UserError(f"--coordinator {self.coordinator} is for several --processes, which share --devices")
        found = replace(found, process=found.process or 0)
        found._check(devices)
        return found

    def _check(self, devices: int) -> None:
        assert self.processes is not None
        assert self.process is not None
        if self.processes < 1:
            raise UserError(f"--processes must be at least 1, got {self.processes}")
        if not 0 <= self.process < self.processes:
            raise UserError(f"--process must be from 0 to {self.processes - 1}, got {self.process}")
        check_divisible("--devices", devices, self.processes, "--processes")
        host, _, port = (self.coordinator or "node:1").rpartition(":")
        if not host.strip() or not port.isdecimal() or not 1 <= int(port) < 2**16:
            raise UserError(f"--coordinator must be HOST:PORT, got {self.coordinator}")

    @property
    def is_first(self) -> bool:
        return not self.process

    @contextlib.contextmanager
    def joined(self, devices: int) -> Iterator[None]:
        """Joined with the others, before JAX begins, until all are done; each with its share of the `devices`.

        Raises `UserError` where the others don't come, and `PeerLost` where one ends before.
        """
        if self.processes is None or self.processes == 1:
            yield
            return
        import jax

        from jax_mlp.sharding import ask_for_cpu_devices

        ask_for_cpu_devices(devices // self.processes)
        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which `StopSignals` answers
        join = partial(
            jax.distributed.initialize,
            self.coordinator,
            self.processes,
            self.process,
            local_device_ids=own_gpus(devices // self.processes),
            cluster_detection_method="deactivate" if self.coordinator else None,
            initialization_timeout=2 * JOIN_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
        try:
            join_others(self.processes, join)
        except ValueError as error:
            raise UserError(f"several processes need --coordinator HOST:PORT ({error})") from error
        try:
            yield
            jax.distributed.shutdown()
        except (Stopped, Finished):
            jax.distributed.shutdown()
            raise
        except (RuntimeError, ValueError) as error:  # the latter where it fails as a result is read
            if re.search(_LOST, str(error), re.I):
                raise PeerLost(error) from error
            raise


def _launched() -> tuple[int, int, int] | None:
    """How many processes a launcher started together, if they are several, and this one's number there and here."""
    for names in _LAUNCHERS:
        numbers = [os.environ.get(name, "") for name in names]
        if all(number.isdecimal() for number in numbers) and int(numbers[0]) > 1:
            processes, process, local = map(int, numbers)
            return processes, process, local
    return None


def own_gpus(count: int) -> list[int] | None:
    """Which of the GPUs that this process sees are its own, of each process so many. None for the first ones.

    By itself JAX takes the one of the process's number on its machine, though a process may have several, or see none
    but its own, as by srun's --gpus-per-task: github.com/jax-ml/jax/issues 16788 and 28194.
    """
    launched, said = _launched(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if launched is None or "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    first = launched[2] * count
    if said is not None and (seen := len(said.split(","))) <= count:
        return list(range(seen))
    return list(range(first, first + count))


_LOST = r"gloo|nccl|connection|peer|timed? ?out|heartbeat|coordination"
"""In what JAX says where a process is not there any more."""


@contextlib.contextmanager
def ending_alone() -> Iterator[None]:
    """Ends this process at once, where it ends by an error and other processes of the run may not: JAX would wait for
    them, and they for it."""
    try:
        yield
    except BaseException as error:
        jax = sys.modules.get("jax")
        if jax is None or not jax.distributed.is_initialized():
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)
