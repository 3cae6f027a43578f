"""A run of several processes, on one machine or on several."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from mlp_workload.config import Config, check_divisible
from mlp_workload.errors import UserError
from mlp_workload.run.process_group import JOIN_SECONDS, joined

_LAUNCHERS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
)
"""Variables of SLURM and of Open MPI: number of processes, number of this process, its number on its machine.

SLURM_NTASKS is not one of them: it is also set in the shell of a job, which is one process."""


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Options of a run of several processes."""

    coordinator: str | None = None
    """Address HOST:PORT of the first process; by default as SLURM or Open MPI say."""
    processes: int | None = None
    """Number of processes that share the --devices; by default as SLURM or Open MPI say."""
    process: int | None = None
    """Number of this process, from 0; by default as SLURM or Open MPI say."""

    def for_run(self, config: Config) -> "ProcessGroup":
        """Returns the group of a run. A launcher's variables give what the options leave open.

        Raises `UserError` if the numbers contradict each other.
        """
        processes, process = self.processes, self.process
        if config.devices > 1 and (launched := _launched()) and processes in (None, launched[0]):
            if process not in (None, launched[1]):
                raise UserError(f"--process {process}: its launcher calls this process {launched[1]}")
            processes, process, _ = launched
        processes = 1 if processes is None else processes
        if processes < 1:
            raise UserError(f"--processes must be at least 1, got {processes}")
        if processes > 1 and process is None:
            raise UserError(f"--processes {processes} needs --process, from 0 to {processes - 1}")
        if processes == 1 and self.coordinator is not None:
            raise UserError(f"--coordinator {self.coordinator} is for several --processes, which share --devices")
        process = process or 0
        if not 0 <= process < processes:
            raise UserError(f"--process must be from 0 to {processes - 1}, got {process}")
        check_divisible("--devices", config.devices, processes, "--processes")
        host, _, port = (self.coordinator or "node:1").rpartition(":")
        if not host.strip() or not port.isdecimal() or not 1 <= int(port) < 2**16:
            raise UserError(f"--coordinator must be HOST:PORT, got {self.coordinator}")
        return ProcessGroup(self.coordinator, processes, process)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one run, by default this one alone, and which of them this is. Processes count from 0."""

    coordinator: str | None = None
    processes: int = 1
    process: int = 0

    @property
    def is_first(self) -> bool:
        return self.process == 0

    @contextlib.contextmanager
    def join(self, config: Config) -> Iterator[None]:
        """Joins the other processes before JAX starts, and leaves them when all are done.

        Each process has an equal share of the run's devices. Raises `UserError` if the others do not come, and
        `PeerLost` if one of them ends early.
        """
        if self.processes == 1:
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
            heartbeat_timeout_seconds=20,
        )
        lost = r"gloo|nccl|connection|peer|timed? ?out|heartbeat|coordination"
        with joined(self.processes, join, jax.distributed.shutdown, "--coordinator HOST:PORT", lost):
            yield


def _launched() -> tuple[int, int, int] | None:
    """Returns the number of processes that a launcher started, this process, and its number on its machine.

    None if no launcher started several processes.
    """
    for names in _LAUNCHERS:
        numbers = [os.environ.get(name, "") for name in names]
        if all(number.isdecimal() for number in numbers) and int(numbers[0]) > 1:
            return int(numbers[0]), int(numbers[1]), int(numbers[2])
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
