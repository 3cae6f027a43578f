"""The device that JAX computes on, and what must be said before its backend starts."""

import os
import re
from typing import Any

import jax
from jax import lax

from mlp_workload.config import Config
from mlp_workload.errors import UserError

_MEMORY = (
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)
"""By which users say how much of a GPU's memory JAX takes."""
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def find_device(config: Config) -> jax.Device:
    """The one for `--device auto|cpu|gpu` and `--gpu`; where JAX has not begun, it begins.

    It then takes a GPU's memory as it needs it, where it would take three quarters of it at once, unless the
    environment says how much. Raises `UserError` where the device is not there (a GPU that is wanted is never replaced
    by the CPU), or does not compute with the wanted precision, or JAX has begun without what `--deterministic` needs.
    """
    _prepare(config)
    gpu_is_wanted = config.device == "gpu" or config.gpu is not None
    try:
        devices = jax.devices("gpu" if gpu_is_wanted else None if config.device == "auto" else config.device)
    except RuntimeError as error:
        wanted = f"--device {config.device}" if config.gpu is None else f"--gpu {config.gpu}"
        raise UserError(f"{wanted}: JAX sees none ({error})") from error
    if config.gpu is not None and config.gpu >= len(devices):
        raise UserError(f"--gpu {config.gpu}: JAX sees {len(devices)}, counted from 0")
    device = devices[config.gpu or 0]
    if device.platform == "cpu" and config.matmul_precision == "tf32":
        raise UserError("--matmul-precision tf32 is for GPUs, and this is a CPU")
    return device


def _prepare(config: Config) -> None:
    if not any(name in os.environ for name in _MEMORY):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    flags = os.environ.get("XLA_FLAGS", "")
    if config.deterministic and _DETERMINISTIC not in flags:
        said = re.search(r"--xla_gpu_deterministic_ops\S*", flags)
        if said is not None:
            raise UserError(f"--deterministic: XLA_FLAGS says {said[0]}")
        if _has_begun() and jax.default_backend() != "cpu":
            raise UserError(f"--deterministic: JAX has begun without XLA_FLAGS={_DETERMINISTIC}")
        os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}".strip()


def _has_begun() -> bool:
    from jax._src import xla_bridge  # nothing public tells without beginning

    return bool(xla_bridge.backends_are_initialized())


def device_name(device: jax.Device) -> str:
    """ "cpu", or "gpu" with the card's name."""
    return "cpu" if device.platform == "cpu" else f"{device.platform} ({device.device_kind})"


def versions(device: jax.Device) -> dict[str, str]:
    """Of what computes on a GPU; empty on a CPU."""
    return {} if device.platform == "cpu" else {"backend": " ".join(device.client.platform_version.split())}


def peak_bytes(device: jax.Device) -> int | None:
    """The most of a GPU's memory that was in use so far; None where nobody counts, as on a CPU."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def product_precision(config: Config) -> Any:
    """For `dot_general`. IEEE is torch's default; JAX's own is TF32 on GPUs since Ampere."""
    return lax.DotAlgorithmPreset.TF32_TF32_F32 if config.matmul_precision == "tf32" else lax.Precision.HIGHEST
