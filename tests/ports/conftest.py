"""What the tests of the ports need beside `tests/conftest.py`."""

import ctypes
import gc
import resource
from collections.abc import Iterator
from pathlib import Path

import cpu_torchvision  # noqa: F401  (before transformers, timm and torchvision)
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "allow")  # models of others use it

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
