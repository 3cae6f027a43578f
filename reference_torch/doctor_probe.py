"""Facts about PyTorch on this machine, for `python -m mlp_workload.doctor`, which runs this module."""

import warnings
from collections.abc import Iterator
from typing import Any

from mlp_workload.doctor import libraries
from mlp_workload.doctor.probe import Facts, product, tell


def facts() -> Iterator[Facts]:
    """Yields the facts, the cheapest first. Exceptions of imports pass through."""
    yield {"doing": "import torch"}
    import torch

    from reference_torch.device import keep_within_quota

    keep_within_quota()
    yield {"file": torch.__file__, "versions": {"torch": torch.__version__}, "threads": torch.get_num_threads()}
    yield {"doing": "looking for devices"}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        on_gpu = torch.cuda.is_available()
    gpus = [
        {"name": f"gpu ({torch.cuda.get_device_name(index)})", "memory": torch.cuda.mem_get_info(index)[0]}
        for index in range(torch.cuda.device_count() if on_gpu else 0)
    ]
    yield {"devices": gpus or [{"name": "cpu", "memory": None}], "cuda": _built_for(torch)}
    if not on_gpu:
        yield {"no_gpu": str(warned[0].message) if warned else None}
    device = "cuda" if on_gpu else "cpu"
    yield {"doing": f"a product on the {'gpu' if on_gpu else 'cpu'}"}
    yield {"product": product(lambda *factors: torch.mm(*(torch.tensor(x, device=device) for x in factors)).cpu())}
    yield {"libraries": libraries.loaded()}


def _built_for(torch: Any) -> Facts | None:
    """Returns the versions of CUDA and cuDNN that torch was built for; None if for the CPU only."""
    if torch.version.cuda is None:
        return None
    has_cudnn = torch.backends.cudnn.is_available()
    cudnn = ".".join(map(str, torch._C._cudnn.getCompileVersion())) if has_cudnn else None
    return {"cuda": torch.version.cuda, "cudnn": cudnn}


if __name__ == "__main__":
    tell(facts)
