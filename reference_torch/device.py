"""The device that PyTorch computes on, and its settings."""

import os

import torch

from mlp_workload.config import FIRST_WITH_TF32, Config, check_precision
from mlp_workload.environment.description import quota_cores
from mlp_workload.errors import UserError

_WORKSPACES = (":4096:8", ":16:8")
"""Settings with which cuBLAS is deterministic."""


def find_device(config: Config) -> torch.device:
    """Returns the device for `--device auto|cpu|gpu` and `--gpu`.

    Sets the process's matrix-product precision, determinism and threads. Raises `UserError` if the device is missing
    or lacks the precision. The CPU never replaces a GPU that was asked for.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (config.device == "gpu" or config.gpu is not None) and (config.gpu or 0) >= gpus:
        wanted = "--device gpu" if config.gpu is None else f"--gpu {config.gpu}"
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        sees = f"{gpus}, counted from 0" if gpus else "none"
        raise UserError(f"{wanted}: torch sees {sees} (this torch is built for {built})")
    device = torch.device(f"cuda:{config.gpu or 0}" if gpus and config.device != "cpu" else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # torch creates streams and graphs there
    if config.matmul_precision != "highest":
        major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
        check_precision(config, device_name(device), major + minor / 10 >= FIRST_WITH_TF32)
    keep_within_quota()
    # For bf16 `Bf16Product` rounds the operands, which TF32 then multiplies without rounding them.
    torch.set_float32_matmul_precision("highest" if config.matmul_precision == "highest" else "high")
    if config.deterministic:
        workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _WORKSPACES[0])  # read when cuBLAS starts
        if workspace not in _WORKSPACES:
            raise UserError(f"--deterministic: CUBLAS_WORKSPACE_CONFIG is {workspace}, not {' or '.join(_WORKSPACES)}")
        torch.use_deterministic_algorithms(True)
    return device


def keep_within_quota() -> None:
    """Limits torch's threads to the CPU quota, unless the user has set their number.

    By default torch starts a thread per core. If the threads use up the quota, the kernel pauses all of them.
    """
    cores = quota_cores()
    if cores is not None and not any(map(os.environ.get, ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))):
        torch.set_num_threads(min(cores, torch.get_num_threads()))


def product_threads(device: torch.device) -> int | None:
    """Returns the number of CPU threads that share a matrix product; None on a GPU."""
    return torch.get_num_threads() if device.type == "cpu" else None


def device_name(device: torch.device) -> str:
    """Returns "cpu", or "gpu" with the GPU's name."""
    return "cpu" if device.type == "cpu" else f"gpu ({torch.cuda.get_device_name(device)})"


class OnDevice:
    """What a trainer on `device` says of itself, as `mlp_workload.interface.Implementation` asks."""

    framework = "torch"
    packages = ("torch",)

    def __init__(self, device: torch.device) -> None:
        self._device, self.device, self.threads = device, device_name(device), product_threads(device)

    @property
    def gpu_versions(self) -> dict[str, str]:
        if self._device.type == "cpu":
            return {}
        return {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}

    @property
    def peak_gpu_bytes(self) -> int | None:
        return None if self._device.type == "cpu" else torch.cuda.max_memory_allocated(self._device)
