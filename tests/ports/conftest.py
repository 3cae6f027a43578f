"""What the tests of the ports need beside `tests/conftest.py`."""

from collections.abc import Callable
from typing import Any

import jax
import torch

jax.config.update("jax_numpy_rank_promotion", "allow")  # models of others use it

_register_fake = torch.library.register_fake


def _but_torchvision(name: Any, *arguments: Any, **options: Any) -> Callable[..., Any]:
    """torchvision's operators are missing beside torch for the CPU; the models don't need them."""
    if isinstance(name, str) and name.startswith("torchvision::"):
        return lambda function: function
    return _register_fake(name, *arguments, **options)


torch.library.register_fake = _but_torchvision
