"""Matrix products of less precision than IEEE float32."""

from typing import Any

import torch


class Bf16Product(torch.autograd.Function):
    """Computes x @ weight.t() from x (batch, fan_in) and weight (fan_out, fan_in), all float32.

    Operands are rounded to bfloat16, in the backward pass too, and sums are float32, like JAX's BF16_BF16_F32.
    `torch.autocast` would also round the results. A GPU multiplies in TF32, which holds bfloat16 numbers exactly.
    """

    @staticmethod
    def forward(context: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x, weight = _rounded(x), _rounded(weight)
        context.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        x, weight = context.saved_tensors
        gradient = _rounded(gradients[0])
        return gradient @ weight if context.needs_input_grad[0] else None, gradient.t() @ x


def _rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()
