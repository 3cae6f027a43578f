"""Checks NVIDIA's driver and GPUs without either framework."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlp_workload.doctor.finding import Finding
from mlp_workload.doctor.packages import release
from mlp_workload.environment.description import nvidia_driver

_SECONDS = 20.0
"""Time limit of nvidia-smi, which waits while a GPU wakes up."""
_QUERY = ("name", "driver_version", "memory.total", "memory.free", "compute_cap")
DRIVER_FOR = {13: 580, 12: 525}
"""Oldest driver for each CUDA version that JAX's and PyTorch's wheels are built for."""
_LITTLE = 2048
"""Free MiB below which there is a note; a framework's libraries alone take several hundred."""
_OLDEST_FOR_13 = (7, 5)
"""Oldest compute capability that CUDA 13 supports."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. Memory is in MiB; None if the GPU shares the machine's."""

    name: str
    total: int | None
    free: int | None
    capability: str


@dataclass(frozen=True)
class Gpus:
    """The driver's version and the GPUs. `complaint` is nvidia-smi's message if it lists none."""

    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    complaint: str | None = None

    @classmethod
    def find(cls, kernel: Path = Path("/proc/driver/nvidia/version")) -> "Gpus":
        """Asks nvidia-smi. `kernel` is the file where Linux has the driver's version."""
        driver = nvidia_driver(kernel)
        command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
        try:
            process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
        except FileNotFoundError:
            return cls(driver)
        except (OSError, subprocess.TimeoutExpired) as error:
            return cls(driver, complaint=str(error))
        if process.returncode:
            return cls(driver, complaint=" ".join((process.stdout + process.stderr).split()))
        rows = [[field.strip() for field in line.split(",")] for line in process.stdout.splitlines() if line.strip()]
        rows = [row for row in rows if len(row) == len(_QUERY)]
        gpus = tuple(Gpu(row[0], _whole(row[2]), _whole(row[3]), row[4]) for row in rows)
        return cls(driver or (rows[0][1] if rows else None), gpus)

    @property
    def major(self) -> int:
        """The driver's first number."""
        return int((self.driver or "0").partition(".")[0])

    def findings(self) -> Iterator[Finding]:
        if self.complaint:
            # A mismatch means that the driver was updated while the system was running.
            fix = (
                "restart the machine" if "mismatch" in self.complaint else "update NVIDIA's driver, restart the machine"
            )
            yield Finding("wrong", "NVIDIA", f"driver {self.driver or 'unknown'}, {self.complaint}", fix)
        elif self.driver and not self.gpus:
            yield Finding("note", "NVIDIA", f"driver {self.driver} is loaded, but no GPU is seen here",
                          "in a container: start it with --gpus all")  # fmt: skip
        elif not self.gpus:
            yield Finding("ok", "NVIDIA", "no driver, no GPU")
        for gpu in self.gpus:
            yield self._finding(gpu)

    def _finding(self, gpu: Gpu) -> Finding:
        seen = f"{gpu.name}, driver {self.driver}"
        if gpu.total is None or gpu.free is None:
            return Finding("ok", "NVIDIA", seen)
        seen += f", {gpu.free / 1024:.1f} of {gpu.total / 1024:.1f} GiB free"
        if gpu.free < _LITTLE:
            fix = "end the processes that use it: nvidia-smi lists them"
            return Finding("note", "NVIDIA", f"{seen}, which is low", fix)
        return Finding("ok", "NVIDIA", seen)

    def extra(self) -> str | None:
        """Returns JAX's extra for this driver and these GPUs; None if the driver is too old for all."""
        too_old = any(release(gpu.capability) < _OLDEST_FOR_13 for gpu in self.gpus)
        for cuda, driver in DRIVER_FOR.items():
            if self.major >= driver and not (cuda == 13 and too_old):
                return f"cuda{cuda}"
        return None


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
