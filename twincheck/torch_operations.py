"""The operations that a PyTorch model performs, as PyTorch dispatches them."""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch as pytorch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from twincheck.first_wrong_operation import Operation, sums, users_line
from twincheck.recording import leaves
from twincheck.torch_side import TorchSide, is_tensor, to_numpy


def operations(side: TorchSide) -> list[Operation]:
    """Runs the model in float64 and returns its operations, in their order; attention is taken apart into its own."""
    recorded = _Recorded()
    with sdpa_kernel(SDPBackend.MATH), recorded:
        side.run("float64")
    return recorded.operations


class _Recorded(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [sums(to_numpy(tensor)) for tensor in _floats((args, kwargs or {}))]
        result = function(*args, **kwargs or {})
        outputs = [sums(to_numpy(tensor)) for tensor in _floats(result)]
        if outputs:
            self.operations.append(
                Operation(function.overloadpacket.__name__, users_line(_frames()), outputs, (), given)
            )
        return result


def _floats(value: Any) -> Iterator[pytorch.Tensor]:
    return (tensor for tensor in leaves(value, is_tensor) if tensor.is_floating_point())


def _frames() -> Iterator[tuple[str, str, int]]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_code.co_name, frame.f_lineno
        frame = frame.f_back
