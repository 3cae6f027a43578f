"""The MLP in the tutorial's two forms: by hand from plain tensors, and as an `nn.Module`."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mlp_workload.config import LEAKY_RELU_SLOPE, Activation, Config
from mlp_workload.initial import TRUNCATED_STD, Initialization
from mlp_workload.interface import activation as activation_name
from mlp_workload.interface import pre_activation

ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=LEAKY_RELU_SLOPE),
    "none": lambda x: x,
}


class HandWritten:
    """Linear layers of plain tensors, each followed by an activation; maps (batch, widths[0]) to (batch, widths[-1]).

    A layer computes x @ w.t() + b with w (fan_out, fan_in) and b (fan_out,).
    """

    def __init__(self, config: Config, widths: Sequence[int]) -> None:
        dtype = getattr(torch, config.dtype)
        self._product = Bf16Product.apply if config.matmul_precision == "bf16" else _ieee
        self.weights = [torch.empty(fan_out, fan_in, dtype=dtype) for fan_in, fan_out in pairwise(widths)]
        self.biases = [torch.empty(fan_out, dtype=dtype) for fan_out in widths[1:]]
        self.activations = config.activations(len(self.weights))
        for weight, bias in zip(self.weights, self.biases, strict=True):
            initialize(config.initialization, weight, bias)
        self.to(torch.device("cpu"))

    def to(self, device: torch.device) -> "HandWritten":
        """Moves the tensors to `device`, and turns their gradients on."""
        self.weights = [weight.detach().to(device).requires_grad_() for weight in self.weights]
        self.biases = [bias.detach().to(device).requires_grad_() for bias in self.biases]
        return self

    def parameters(self) -> list[torch.Tensor]:
        """Returns weight and bias of each layer from the input on, in the order of `nn.Module.parameters`."""
        return [tensor for layer in zip(self.weights, self.biases, strict=True) for tensor in layer]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        *_, (_, logits) = self.intermediates(x)
        return logits

    def intermediates(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the pre-activation and activation of each layer with their names in a trace; the logits come last."""
        layers = zip(self.weights, self.biases, self.activations, strict=True)
        for index, (weight, bias, activation) in enumerate(layers):
            x = self._product(x, weight) + bias
            yield pre_activation(index), x
            x = ACTIVATIONS[activation](x)
            yield activation_name(index, len(self.weights)), x


def _ieee(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.t()


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


class Bf16Linear(nn.Linear):
    """A linear layer with `Bf16Product`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Bf16Product.apply(x, self.weight) + self.bias  # type: ignore[no-any-return,no-untyped-call]


class MLP(nn.Module):
    """`nn.Linear` layers, each followed by an activation; maps (batch, widths[0]) to logits (batch, widths[-1])."""

    def __init__(self, config: Config, widths: Sequence[int]) -> None:
        super().__init__()
        linear_type = Bf16Linear if config.matmul_precision == "bf16" else nn.Linear
        modules: dict[Activation, Callable[[], nn.Module]] = {
            "relu": nn.ReLU,
            "leaky_relu": partial(nn.LeakyReLU, LEAKY_RELU_SLOPE),
            "none": nn.Identity,
        }
        layers: list[nn.Module] = []
        for (fan_in, fan_out), activation in zip(pairwise(widths), config.activations(len(widths) - 1), strict=True):
            linear = linear_type(fan_in, fan_out, dtype=getattr(torch, config.dtype))
            initialize(config.initialization, linear.weight, linear.bias)
            layers += [linear, modules[activation]()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)  # type: ignore[no-any-return]

    def intermediates(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the tensors of `forward` as `HandWritten.intermediates` does."""
        modules, layers = iter(self.model), len(self.model) // 2
        for index, (linear, activation) in enumerate(zip(modules, modules, strict=True)):
            x = linear(x)
            yield pre_activation(index), x
            x = activation(x)
            yield activation_name(index, layers), x


def build_model(config: Config, widths: Sequence[int]) -> HandWritten | MLP:
    """Returns the model of a run: by hand for preset `relu`, as a module for `leaky`. Draws from torch's generator."""
    return HandWritten(config, widths) if config.preset == "relu" else MLP(config, widths)


@torch.no_grad()
def initialize(initialization: Initialization, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Fills weight (fan_out, fan_in) and bias (fan_out,) in place; `mlp_workload.initial` defines the distributions."""
    fan_in = weight.shape[1]
    match initialization:
        case "torch_linear":  # nn.Linear has done the same; plain tensors need it
            bound = fan_in**-0.5
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)
        case "kaiming_normal":
            nn.init.kaiming_normal_(weight)
            nn.init.zeros_(bias)
        case "flax_linear":
            std = fan_in**-0.5 / TRUNCATED_STD
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(bias)
