"""What the tests of the ports need beside `tests/conftest.py`."""

import ctypes
import gc
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
import torch

jax.config.update("jax_numpy_rank_promotion", "allow")  # models of others use it

_register_fake = torch.library.register_fake


def _but_torchvision(name: Any, *arguments: Any, **options: Any) -> Callable[..., Any]:
    """torchvision's operators are missing beside torch for the CPU; the models don't need them."""
    if isinstance(name, str) and name.startswith("torchvision::"):
        return lambda function: function
    return _register_fake(name, *arguments, **options)


torch.library.register_fake = _but_torchvision

_MOST = 2 * 2**30
"""Bytes that a process may hold before it frees what JAX has compiled; each shape of each model has its own."""


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    yield
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if pages * resource.getpagesize() > _MOST:
            jax.clear_caches()
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
