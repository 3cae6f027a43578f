"""The original, in torch."""

import torch
from torch import nn


class Network(nn.Module):
    """Images (batch, 1, 28, 28) to logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=3, bias=False)  # BatchNorm would take a bias off again
        self.batch_norm = nn.BatchNorm2d(8)
        self.gelu = nn.GELU()
        self.flatten = nn.Flatten()
        self.layer_norm = nn.LayerNorm(8 * 9 * 9)
        self.linear = nn.Linear(8 * 9 * 9, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gelu(self.batch_norm(self.conv(x)))
        return self.linear(self.layer_norm(self.flatten(x)))  # type: ignore[no-any-return]
