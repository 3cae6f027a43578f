"""Environment variables that control the frameworks and their libraries, and what each may change."""

import os
import re
from typing import Literal

Effect = Literal["numbers", "memory", "speed", "devices", "paths", "processes", "none"]
_NAMES: dict[Effect, tuple[str, ...]] = {
    "numbers": (  # they may change the numbers of a run; unlisted variables of these libraries count too
        "ATEN_", "BLIS_", "CUBLASLT_", "CUBLAS_", "CUDNN_", "DNNL_", "EAGER_CONSTANT_FOLDING", "FLAX_", "GOMP_",
        "GOTO_NUM_THREADS", "JAX_", "KERAS_", "KMP_", "MKL_", "NCCL_ALGO", "NCCL_PROTO", "NPROC",
        "NVIDIA_TF32_OVERRIDE", "OMP_", "ONEDNN_", "OPENBLAS_", "PJRT_", "PYTORCH_", "TORCHDYNAMO_",
        "TF_DETERMINISTIC_OPS", "TF_ENABLE_ONEDNN_OPTS", "TORCHINDUCTOR_", "TORCH_", "VECLIB_MAXIMUM_THREADS", "XLA_",
    ),
    "memory": (  # how much of a GPU's memory JAX takes
        "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_ALLOCATOR", "XLA_PYTHON_CLIENT_MEM_FRACTION",
        "XLA_PYTHON_CLIENT_PREALLOCATE",
    ),
    "speed": (  # where and how fast a library computes
        "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT", "JAX_CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "JAX_PLATFORM_NAME",
        "KMP_AFFINITY", "KMP_BLOCKTIME", "OMP_PLACES", "OMP_PROC_BIND", "OMP_WAIT_POLICY", "PYTORCH_ALLOC_CONF",
        "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING",
    ),
    "devices": (  # the devices and libraries that every process sees
        "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "LD_PRELOAD", "ROCR_VISIBLE_DEVICES",
    ),
    "paths": ("LD_LIBRARY_PATH", "PYTHONPATH"),
    "processes": (  # set by torchrun and cluster launchers: the rank of a process and the number of processes
        "GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMPI_",
        "PMIX_", "PMI_", "RANK", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "SLURM_", "WORLD_SIZE",
    ),
    "none": (  # logs, caches, and how processes find each other
        "JAX_COMPILATION_CACHE_", "JAX_COORDINATOR_", "JAX_DEBUG_LOG_MODULES", "JAX_DUMP_IR_",
        "JAX_ENABLE_COMPILATION_CACHE", "JAX_LOCAL_DEVICE_IDS", "JAX_LOGGING_LEVEL", "JAX_LOG_", "JAX_NUM_PROCESSES",
        "JAX_PERSISTENT_CACHE_", "JAX_PPRINT_", "JAX_PROCESS_ID", "JAX_TRACEBACK_", "OMP_DISPLAY_ENV", "TORCHELASTIC_",
        "TORCHINDUCTOR_CACHE_DIR", "TORCH_CPP_LOG_LEVEL", "TORCH_EXTENSIONS_DIR", "TORCH_HOME", "TORCH_LOGS",
        "TORCH_NCCL_", "TORCH_SHOW_", "VISDOM_",
    ),
}  # fmt: skip
_EFFECTS = {name: effect for effect, names in _NAMES.items() for name in names}
"""Effects by name. A name that ends in "_" is a prefix; the longest matching prefix applies."""
THREAD_COUNTS = frozenset({"MKL_NUM_THREADS", "NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PJRT_NPROC"})
"""Variables that change numbers only through the number of CPU threads."""


def effect(name: str) -> Effect | None:
    """Returns what the environment variable `name` may change; None if none of the libraries reads it."""
    if name in _EFFECTS:
        return _EFFECTS[name]
    families = (known for known in _EFFECTS if known.endswith("_") and name.startswith(known))
    effect = _EFFECTS.get(max(families, key=len, default=""))
    # Endings of variables that set what a library logs, or where its files are.
    is_logging = re.search(r"_(VERBOSE|LOG\w*|DEBUG|DBG|SETTINGS|HOME)$", name)
    return "none" if effect and is_logging else effect


def set_variables(*effects: Effect) -> dict[str, str]:
    """Returns the set variables that have one of `effects`, in alphabetical order."""
    return {name: value for name, value in sorted(os.environ.items()) if effect(name) in effects}
