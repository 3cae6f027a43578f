"""A run of several processes, on one machine or on several."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from mlp_workload.config import Config, check_divisible
from mlp_workload.errors import PeerLost, UserError
from mlp_workload.run.checkpointing import Finished
from mlp_workload.run.process_group import JOIN_SECONDS, join_others
from mlp_workload.run.signals import Stopped

_LAUNCHERS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
)
"""Variables of SLURM and of Open MPI: number of processes, number of this process, its number on its machine.

SLURM_NTASKS is not one of them: it is also set in the shell of a job, which is one process."""
_HEARTBEAT_SECONDS = 20
"""Time after which a process that does not answer counts as lost."""


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The processes of one run, and which of them this is."""

    coordinator: str | None = None
    """HOST:PORT, free there, at which the other processes reach the first. What SLURM or Open MPI say by default."""
    processes: int | None = None
    """Of the run, which share its --devices evenly, started with the same flags each. By default those that SLURM or
    Open MPI started, if there are several --devices."""
    process: int | None = None
    """Which of them this is, from 0; the first alone prints and writes. By default as SLURM or Open MPI say."""

    def for_run(self, config: Config) -> "ProcessGroup":
        """Returns the group of a run, with what the flags leave open filled in.

        Raises `UserError` if the numbers contradict each other.
        """
        group, devices = self, config.devices
        if devices > 1 and (launched := _launched()) and self.processes in (None, launched[0]):
            if self.process not in (None, launched[1]):
                raise UserError(f"--process {self.process}: its launcher calls this process {launched[1]}")
            group = replace(self, processes=launched[0], process=launched[1])
        group = replace(group, processes=1 if group.processes is None else group.processes)
        assert group.processes is not None
        if group.processes > 1 and group.process is None:
            raise UserError(f"--processes {group.processes} needs --process, from 0 to {group.processes - 1}")
        if group.processes == 1 and self.coordinator is not None:
            raise UserError(f"--coordinator {self.coordinator} is for several --processes, which share --devices")
        group = replace(group, process=group.process or 0)
        group._check(devices)
        return group

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
    def join(self, config: Config) -> Iterator[None]:
        """Joins the other processes before JAX starts, and leaves them when all are done.

        Each process has an equal share of the run's devices. Raises `UserError` if the others do not come, and
        `PeerLost` if one of them ends early.
        """
        if self.processes is None or self.processes == 1:
            yield
            return
        import jax

        from jax_mlp.sharding import ask_for_cpu_devices

        own_devices = config.devices // self.processes
        ask_for_cpu_devices(own_devices)
        jax.config.update("jax_enable_preemption_service", False)  # else JAX takes SIGTERM from `StopSignals`
        join = partial(
            jax.distributed.initialize,
            self.coordinator,
            self.processes,
            self.process,
            local_device_ids=own_gpus(own_devices),
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
        except (RuntimeError, ValueError) as error:  # ValueError: it failed while a result was read
            if re.search(_LOST, str(error), re.I):
                raise PeerLost(error) from error
            raise


def _launched() -> tuple[int, int, int] | None:
    """Returns the number of processes that a launcher started, this process, and its number on its machine.

    None if no launcher started several processes.
    """
    for names in _LAUNCHERS:
        numbers = [os.environ.get(name, "") for name in names]
        if all(number.isdecimal() for number in numbers) and int(numbers[0]) > 1:
            processes, process, local = map(int, numbers)
            return processes, process, local
    return None


def own_gpus(count: int) -> list[int] | None:
    """Returns the indices of this process's own GPUs among those that it sees, if each process has `count`.

    None lets JAX take the first ones. JAX's own rule is one GPU per process, by its number on the machine. It fails if
    a process has several GPUs, or sees only its own, as with srun's --gpus-per-task:
    github.com/jax-ml/jax/issues 16788 and 28194.
    """
    launched, visible = _launched(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if launched is None or "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    first = launched[2] * count
    if visible is not None and (seen := len(visible.split(","))) <= count:
        return list(range(seen))
    return list(range(first, first + count))


_LOST = r"gloo|nccl|connection|peer|timed? ?out|heartbeat|coordination"
"""Words in JAX's errors about a lost process."""


@contextlib.contextmanager
def ending_alone() -> Iterator[None]:
    """Ends this process at once if an error ends it and there are others: JAX would wait for them, and they for it."""
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
