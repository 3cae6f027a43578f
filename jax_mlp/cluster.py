"""Several processes, on one machine or many, that are one run."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlp_workload.config import check_divisible
from mlp_workload.errors import PeerLost, UserError
from mlp_workload.stopping import Stopped

_LAUNCHERS = {
    "SLURM": ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
}
"""By which variables each says that it started this process, one of how many, and which."""
_BEGIN_SECONDS, _HEARTBEAT_SECONDS, _END_SECONDS = 60, 20, 20
"""How long processes wait for one that does not come, does not answer, and does not end."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Which of a run's processes this one is."""

    coordinator: str | None = None
    """HOST:PORT, free there, at which the other processes reach the first. What SLURM or Open MPI say by default."""
    processes: int | None = None
    """Of the run, which share its --devices evenly, started with the same flags each. By default those that SLURM or
    Open MPI started, if there are several --devices."""
    process: int | None = None
    """Which of them this is, from 0; the first alone prints and writes. By default as SLURM or Open MPI say."""

    def among(self, devices: int) -> "Cluster":
        """With what the flags leave open, for a run on so many devices. Raises `UserError` where it makes no sense."""
        found = self
        if self.processes is None and devices > 1:
            for told, processes, process in _LAUNCHERS.values():
                if told in os.environ and int(os.environ[processes]) > 1:
                    found = replace(self, processes=int(os.environ[processes]), process=int(os.environ[process]))
                    break
        found = replace(found, processes=1 if found.processes is None else found.processes)
        assert found.processes is not None
        if found.processes > 1 and found.process is None:
            raise UserError(f"--processes {found.processes} needs --process, from 0 to {found.processes - 1}")
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
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d{1,5}", self.coordinator):
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

        from jax_mlp.layout import ask_for_cpu_devices

        ask_for_cpu_devices(devices // self.processes)
        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which `StopSignals` answers
        try:
            jax.distributed.initialize(
                self.coordinator, self.processes, self.process, initialization_timeout=_BEGIN_SECONDS,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS, shutdown_timeout_seconds=_END_SECONDS,
            )  # fmt: skip
        except ValueError as error:
            raise UserError(f"several processes need --coordinator HOST:PORT ({error})") from error
        except RuntimeError as error:
            raise UserError(f"the {self.processes} processes did not find together: {error}") from error
        try:
            yield
        except Stopped:
            jax.distributed.shutdown()
            raise
        except RuntimeError as error:
            if re.search(_LOST, str(error), re.I):
                raise PeerLost(error) from error
            raise
        jax.distributed.shutdown()


_LOST = r"gloo|nccl|connection|peer|timed? ?out|heartbeat|coordination"
"""In what JAX says where a process is not there any more."""


@contextlib.contextmanager
def ending_alone() -> Iterator[None]:
    """Ends this process at once, where it ends by an error and other processes of the run may not: JAX would wait for
    them."""
    try:
        yield
    except SystemExit as stop:
        jax = sys.modules.get("jax")
        if jax is not None and jax.distributed.is_initialized():
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(stop.code if isinstance(stop.code, int) else 1)
        raise
