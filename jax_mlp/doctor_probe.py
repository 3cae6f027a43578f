"""Facts about JAX on this machine, for `python -m mlp_workload.doctor`, which runs this module."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jax_mlp.startup import check_jit, import_jax
from mlp_workload.doctor import libraries
from mlp_workload.doctor.machine import refusal as folder_refusal
from mlp_workload.doctor.probe import Facts, product, tell
from mlp_workload.environment.compile_cache import is_ours, own_folder

_NAMED = "JAX_COMPILATION_CACHE_DIR"


def facts() -> Iterator[Facts]:
    """Yields the facts, the cheapest first. Exceptions of imports pass through."""
    yield {"doing": "looking for the compile cache"}
    yield {"cache": _cache()}
    os.environ[_NAMED] = ""  # keep nothing that is compiled here
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # take no GPU memory in advance
    yield {"doing": "import jax"}
    import_jax()
    import jax
    import jaxlib.version

    from jax_mlp.device import cpu_threads, device_name, starting_within_quota

    versions = {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__}
    yield {"file": jax.__file__, "versions": versions, "threads": cpu_threads()}
    yield {"doing": "looking for devices"}
    with starting_within_quota():
        devices = jax.devices()
    memory = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]  # what JAX would take of a GPU
    described = [{"name": device_name(device), "memory": size} for device, size in zip(devices, memory, strict=True)]
    yield {"devices": described, "cuda": _built_for()}
    if devices[0].platform == "cpu":
        yield {"no_gpu": _refusal(jax)}
    check_jit()
    yield {"doing": f"a product on the {devices[0].platform}"}
    yield {"product": product(lambda x, y: jax.numpy.matmul(x, y, precision="highest"))}
    yield {"libraries": libraries.loaded()}
    yield {"doing": "import flax"}
    import flax.nnx

    versions["flax"] = flax.__version__
    yield {"versions": versions, "doing": "import optax"}
    import optax

    versions["optax"] = optax.__version__
    yield {"versions": versions}


def _cache() -> Facts:
    """Returns the folder of compiled programs, and why it can't be used if so."""
    named = os.environ.get(_NAMED)
    if named == "" or "://" in (named or ""):
        return {"folder": named or None, "refusal": None, "named": True}
    try:
        folder = Path(named) if named else own_folder()
    except RuntimeError as error:
        return {"folder": None, "refusal": str(error), "named": False}
    refusal = folder_refusal(folder)
    if refusal is None and not named and folder.exists() and not is_ours(folder):
        refusal = "others can write to it, and programs in it are run"
    return {"folder": str(folder), "refusal": refusal, "named": bool(named)}


def _built_for() -> Facts | None:
    """Returns the versions of CUDA and cuDNN that the plugin was built for; None without a plugin."""
    for plugin in ("jax_cuda13_plugin", "jax_cuda12_plugin"):
        try:
            versions: Any = importlib.import_module(f"{plugin}._versions")
        except ImportError:
            continue
        return {
            "cuda": libraries.cuda_version(versions.cuda_runtime_build_version()),
            "cudnn": libraries.cudnn_version(versions.cudnn_build_version()),
        }
    return None


def _refusal(jax: Any) -> str | None:
    """Returns JAX's error if it is asked for a GPU; None if it has one."""
    try:
        jax.devices("cuda")
    except RuntimeError as error:
        return str(error)
    return None


if __name__ == "__main__":
    tell(facts)
