"""Checks NVIDIA's driver and GPUs without either framework."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlp_workload.doctor.finding import Finding
from mlp_workload.doctor.packages import release
from mlp_workload.environment.description import nvidia_driver

DRIVER_FOR = {13: 580, 12: 525}
"""Oldest driver for each CUDA version that JAX's and PyTorch's wheels are built for."""


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
        query = "--query-gpu=name,driver_version,memory.total,memory.free,compute_cap"
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        try:  # it waits while a GPU wakes up
            process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
        except FileNotFoundError:
            return cls(driver)
        except (OSError, subprocess.TimeoutExpired) as error:
            return cls(driver, complaint=str(error))
        if process.returncode:
            return cls(driver, complaint=" ".join((process.stdout + process.stderr).split()))
        rows = [[field.strip() for field in line.split(",")] for line in process.stdout.splitlines()]
        rows = [row for row in rows if len(row) == query.count(",") + 1]
        gpus = tuple(Gpu(name, _whole(total), _whole(free), capability) for name, _, total, free, capability in rows)
        return cls(driver or (rows[0][1] if rows else None), gpus)

    @property
    def major(self) -> int:
        return int((self.driver or "0").partition(".")[0])

    def findings(self) -> Iterator[Finding]:
        if self.complaint:
            # A mismatch means that the driver was updated while the system was running.
            fix = "" if "mismatch" in self.complaint else "update NVIDIA's driver, "
            fix += "restart the machine"
            yield Finding("wrong", "NVIDIA", f"driver {self.driver or 'unknown'}, {self.complaint}", fix)
        elif self.driver and not self.gpus:
            yield Finding("note", "NVIDIA", f"driver {self.driver} is loaded, but no GPU is seen here",
                          "in a container: start it with --gpus all")  # fmt: skip
        elif not self.gpus:
            yield Finding("ok", "NVIDIA", "no driver, no GPU")
        for gpu in self.gpus:
            seen = f"{gpu.name}, driver {self.driver}"
            if gpu.total is not None and gpu.free is not None:
                seen += f", {gpu.free / 1024:.1f} of {gpu.total / 1024:.1f} GiB free"
                if gpu.free < 2048:  # a framework's libraries alone take several hundred MiB
                    fix = "end the processes that use it: nvidia-smi lists them"
                    yield Finding("note", "NVIDIA", f"{seen}, which is low", fix)
                    continue
            yield Finding("ok", "NVIDIA", seen)

    def extra(self) -> str | None:
        """Returns JAX's extra for this driver and these GPUs; None if the driver is too old for all."""
        oldest = min((release(gpu.capability) for gpu in self.gpus), default=(9,))  # CUDA 13 needs capability 7.5
        for cuda, driver in DRIVER_FOR.items():
            if self.major >= driver and (cuda < 13 or oldest >= (7, 5)):
                return f"cuda{cuda}"
        return None


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
