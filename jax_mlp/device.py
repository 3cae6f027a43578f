"""The device that JAX computes on, and the settings that must be made before its backend starts."""

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

_DETERMINISTIC = "--xla_gpu_deterministic_ops"


def find_device(config: Config) -> jax.Device:
    """Returns the device for `--device auto|cpu|gpu` and `--gpu`. Starts JAX if it has not started yet.

    Unless the environment says otherwise, JAX then takes GPU memory as it needs it, not three quarters of it at once.
    Raises `UserError` if the device is missing or lacks the precision, or if JAX has started without the flag that
    `--deterministic` needs. The CPU never replaces a GPU that was asked for.
    """
    _prepare(config)
    gpu_is_wanted = config.device == "gpu" or config.gpu is not None
    try:
        with starting_within_quota():
            devices = jax.devices("gpu" if gpu_is_wanted else None if config.device == "auto" else config.device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: JAX_PLATFORMS names what is not installed
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
    given = [flag for flag in flags if flag.partition("=")[0] == _DETERMINISTIC]
    if not config.deterministic or (given and given[-1].partition("=")[2] in ("", "true", "1")):
        return
    if given or (flags and not flags[0].startswith("-")):  # XLA_FLAGS may name a file of flags
        raise UserError(f"--deterministic: XLA_FLAGS says {(given or flags)[-1]}")
    if backend_has_begun() and jax.default_backend() != "cpu":
        raise UserError(f"--deterministic: JAX has started without XLA_FLAGS={_DETERMINISTIC}=true")
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{_DETERMINISTIC}=true"])


@contextlib.contextmanager
def starting_within_quota() -> Iterator[None]:
    """Limits the threads of a backend that starts inside to the CPU quota, unless the user has set their number.

    By default JAX starts a thread per core. If the threads use up the quota, the kernel pauses all of them.
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
    """Returns the number of threads of JAX's CPU backend, by the rule that JAX starts with: no public API tells it."""
    return _wanted_threads() or usable_cores()


def _wanted_threads() -> int | None:
    """Returns the number of threads that the user has set, parsed as XLA does; None if none is set."""
    for name in ("PJRT_NPROC", "NPROC"):  # the first one wins
        with contextlib.suppress(ValueError):
            return max(1, int(os.environ.get(name, "")))
    return None


def device_name(device: jax.Device) -> str:
    """Returns "cpu", or "gpu" with the GPU's name."""
    platform = "gpu" if device.platform in ("gpu", "cuda", "rocm") else device.platform
    return "cpu" if platform == "cpu" else f"{platform} ({device.device_kind})"


def product_threads(device: jax.Device) -> int | None:
    """Returns the number of CPU threads that share a matrix product; None on a GPU."""
    return cpu_threads() if device.platform == "cpu" else None


class OnDevice:
    """What a trainer on `device` says of itself, as `mlp_workload.interface.Implementation` asks."""

    framework = "jax"
    packages = ("jax", "jaxlib", "flax", "optax")

    def __init__(self, device: jax.Device) -> None:
        self._device, self.device, self.threads = device, device_name(device), product_threads(device)

    @property
    def gpu_versions(self) -> dict[str, str]:
        is_cpu = self._device.platform == "cpu"
        return {} if is_cpu else {"backend": " ".join(self._device.client.platform_version.split())}

    @property
    def peak_gpu_bytes(self) -> int | None:
        return (self._device.memory_stats() or {}).get("peak_bytes_in_use")


def product_precision(config: Config) -> Any:
    """Returns the `precision` of matrix products. Torch's default is IEEE; JAX's is TF32 on GPUs since Ampere."""
    return {
        "highest": lax.Precision.HIGHEST,
        "tf32": lax.DotAlgorithmPreset.TF32_TF32_F32,
        "bf16": lax.DotAlgorithmPreset.BF16_BF16_F32,
    }[config.matmul_precision]
