"""A planted fault, and how one replaces a function."""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from mlp_workload.weights import Parameters

LARGE_BATCHES = {"batch_size": 7000, "hidden": (8, 8)}
"""Settings of a run on MNIST with nine steps per epoch, the last one of 4,000 examples."""


@dataclass(frozen=True)
class Fault:
    """A small change on one side, which the check must find at `step` in `tensor`. Step 0 is before the first step.

    It is planted by `flags`, set on that side only, or by `plant`, called in that side's process. Both sides run with
    `preset`, `dtype` and the settings of `config`; `start` edits the common initial parameters.
    """

    name: str
    side: Literal["jax", "torch"]
    step: int
    tensor: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    plant: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    preset: Literal["relu", "leaky"] = "leaky"
    dtype: Literal["float32", "float64"] = "float64"
    config: Mapping[str, Any] = field(default_factory=dict)
    start: Callable[[Parameters], Parameters] | None = None
    evaluates: bool = False
    runs_freely: bool = False


def replaced(target: str, make: Callable[[Any], Any]) -> Callable[[], AbstractContextManager[Any]]:
    """Returns a plant that replaces `target` by `make(original)`.

    `target` is "package.module:name" or "package.module:class.name".
    """

    @contextlib.contextmanager
    def plant() -> Iterator[None]:
        module, _, path = target.partition(":")
        *owners, name = path.split(".")
        owner: Any = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        before = vars(owner).get(name)
        setattr(owner, name, make(getattr(owner, name)))
        try:
            yield
        finally:
            if before is None:  # inherited
                delattr(owner, name)
            else:
                setattr(owner, name, before)

    return plant


def wrapped(target: str, wrapper: Callable[..., Any]) -> Callable[[], AbstractContextManager[Any]]:
    """Returns a plant that replaces the function `target` by `wrapper`, which takes the original and its arguments."""
    return replaced(target, lambda original: lambda *arguments, **options: wrapper(original, *arguments, **options))
