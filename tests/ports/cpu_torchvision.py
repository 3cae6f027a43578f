"""Lets torchvision be imported beside PyTorch for CPUs. Import this before transformers, timm and torchvision.

The package index's torchvision is built for PyTorch with CUDA. Beside PyTorch for CPUs its compiled operators do not
load, and torchvision fails when it registers their shapes. No model in these tests uses one of them.
"""

from collections.abc import Callable
from typing import Any

import torch

_register_fake = torch.library.register_fake


def _register_others(op: Any, *args: Any, **kwargs: Any) -> Any:
    if not str(op).startswith("torchvision::"):
        return _register_fake(op, *args, **kwargs)

    def unregistered(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    return unregistered


torch.library.register_fake = _register_others
