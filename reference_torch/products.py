"""Products of less precision than IEEE float32."""

from typing import Any

import torch


class Bf16Product(torch.autograd.Function):
    """x (batch, fan_in) and weight (fan_out, fan_in) to x @ weight.t(), all float32.

    Operands are rounded to bfloat16, in the backward pass too, and sums are float32, as by JAX's BF16_BF16_F32;
    `torch.autocast` would round results as well. TF32 holds a bfloat16 exactly: on a GPU that is what multiplies.
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
