"""The device that JAX computes on, and what must be said before its backend starts."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax import lax

from jax_mlp.startup import backend_has_begun
from mlp_workload.config import FIRST_WITH_TF32, Config, check_precision
from mlp_workload.environment.description import quota_cores, usable_cores
from mlp_workload.environment.variables import set_variables
from mlp_workload.errors import UserError

_THREADS = ("PJRT_NPROC", "NPROC")
"""Environment variables that set the number of threads of JAX's CPU backend; the first one wins."""
_DETERMINISTIC = "--xla_gpu_deterministic_ops"


def find_device(config: Config) -> jax.Device:
    """The one for `--device auto|cpu|gpu` and `--gpu`; where JAX has not begun, it begins.

    It then takes a GPU's memory as it needs it, where it would take three quarters of it at once, unless the
    environment says how much. Raises `UserError` where the device is not there (a GPU that is wanted is never replaced
    by the CPU), or does not compute with the wanted precision, or JAX has begun without what `--deterministic` needs.
    """
    _prepare(config)
    gpu_is_wanted = config.device == "gpu" or config.gpu is not None
    try:
        with starting_within_quota():
            devices = jax.devices("gpu" if gpu_is_wanted else None if config.device == "auto" else config.device)
    except (RuntimeError, AssertionError) as error:  # the latter where JAX_PLATFORMS wants what is not installed
        wanted = f"--device {config.device}" if config.gpu is None else f"--gpu {config.gpu}"
        platforms = os.environ.get("JAX_PLATFORMS")
        reason = str(error) or f"JAX_PLATFORMS is {platforms}, which is not installed or does not start"
        raise UserError(f"{wanted}: JAX sees none ({reason})") from error
    if config.gpu is not None and config.gpu >= len(devices):
        raise UserError(f"--gpu {config.gpu}: JAX sees {len(devices)}, counted from 0")
    device = devices[config.gpu or 0]
    if config.matmul_precision != "highest":
        capability = getattr(device, "compute_capability", "0")
        check_precision(config, device_name(device), float(capability) >= FIRST_WITH_TF32)
    return device


def _prepare(config: Config) -> None:
    if not set_variables("memory"):
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    flags = os.environ.get("XLA_FLAGS", "").split()
    said = [flag for flag in flags if flag.partition("=")[0] == _DETERMINISTIC]
    if not config.deterministic or (said and said[-1].partition("=")[2] in ("", "true", "1")):
        return
    if said or (flags and not flags[0].startswith("-")):  # else it names a file
        raise UserError(f"--deterministic: XLA_FLAGS says {(said or flags)[-1]}")
    if backend_has_begun() and jax.default_backend() != "cpu":
        raise UserError(f"--deterministic: JAX has begun without XLA_FLAGS={_DETERMINISTIC}=true")
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{_DETERMINISTIC}=true"])


@contextlib.contextmanager
def starting_within_quota() -> Iterator[None]:
    """Gives a backend that starts inside as many threads as a CPU quota allows, unless the user says how many.

    By itself JAX takes one for each core that it may run on. With more than the quota allows, all are paused.
    """
    cores = quota_cores()
    if cores is None or _wanted_threads() is not None:
        yield
        return
    os.environ["NPROC"] = str(cores)
    try:
        yield
    finally:
        del os.environ["NPROC"]


def cpu_threads() -> int:
    """Threads of JAX's CPU backend, which share each product: nothing public tells, so by what it starts with."""
    return _wanted_threads() or usable_cores()


def _wanted_threads() -> int | None:
    """The number of threads that the user has set, parsed as XLA parses it; None if none is set."""
    for name in _THREADS:
        with contextlib.suppress(ValueError):
            return max(1, int(os.environ.get(name, "")))
    return None


def device_name(device: jax.Device) -> str:
    """ "cpu", or "gpu" with the card's name."""
    platform = "gpu" if device.platform in ("gpu", "cuda", "rocm") else device.platform
    return "cpu" if platform == "cpu" else f"{platform} ({device.device_kind})"


def versions(device: jax.Device) -> dict[str, str]:
    """Of what computes on a GPU; empty on a CPU."""
    return {} if device.platform == "cpu" else {"backend": " ".join(device.client.platform_version.split())}


def product_threads(device: jax.Device) -> int | None:
    """CPU threads that share each product; None on a GPU."""
    return cpu_threads() if device.platform == "cpu" else None


def peak_bytes(device: jax.Device) -> int | None:
    """The most of a GPU's memory that JAX's allocator had given out; None where nobody counts, as on a CPU."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def product_precision(config: Config) -> Any:
    """For `dot_general`. IEEE is torch's default; JAX's own is TF32 on GPUs since Ampere."""
    return {
        "highest": lax.Precision.HIGHEST,
        "tf32": lax.DotAlgorithmPreset.TF32_TF32_F32,
        "bf16": lax.DotAlgorithmPreset.BF16_BF16_F32,
    }[config.matmul_precision]
