"""The device that PyTorch computes on, and how."""

import os

import torch

from mlp_workload.config import Config
from mlp_workload.errors import UserError

_TORCH_PRECISION = {"highest": "highest", "tf32": "high", "bf16": "highest"}
"""Of float32 products that stay float32; with bf16 they are autocast."""


def find_device(config: Config) -> torch.device:
    """The one for `--device auto|cpu|gpu` and `--gpu`; sets the process's precision of products, and determinism.

    Raises `UserError` where the device is not there (a GPU that is wanted is never replaced by the CPU), or does not
    compute with the wanted precision.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (config.device == "gpu" or config.gpu is not None) and (config.gpu or 0) >= gpus:
        wanted = "--device gpu" if config.gpu is None else f"--gpu {config.gpu}"
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
        sees = f"{gpus}, counted from 0" if gpus else "none"
        raise UserError(f"{wanted}: torch sees {sees} (this torch is built for {built})")
    on_gpu = gpus and config.device != "cpu"
    if not on_gpu and config.matmul_precision == "tf32":
        raise UserError("--matmul-precision tf32 is for GPUs, and this is a CPU")
    torch.set_float32_matmul_precision(_TORCH_PRECISION[config.matmul_precision])
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins
        torch.use_deterministic_algorithms(True)
    return torch.device(f"cuda:{config.gpu or 0}" if on_gpu else "cpu")


def device_name(device: torch.device) -> str:
    """ "cpu", or "gpu" with the card's name."""
    return "cpu" if device.type == "cpu" else f"gpu ({torch.cuda.get_device_name(device)})"


def peak_bytes(device: torch.device) -> int | None:
    """The most of a GPU's memory that was in use so far; None on a CPU."""
    return None if device.type == "cpu" else torch.cuda.max_memory_allocated(device)


def versions(device: torch.device) -> dict[str, str]:
    """Of what computes on a GPU; empty on a CPU."""
    if device.type == "cpu":
        return {}
    return {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
