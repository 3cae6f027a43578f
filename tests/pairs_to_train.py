"""Small models written in both frameworks, for training side by side."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn


class TorchMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(nn.functional.gelu(self.norm(self.first(x))))


class JaxMlp(nnx.Module):
    def __init__(self, epsilon: float = 1e-5) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.norm = nnx.LayerNorm(8, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(nnx.gelu(self.norm(self.first(x)), approximate=False))


class TorchVit(nn.Module):
    """One block on patches, with dropout, a class token and positions."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 16), nn.Linear(16, width)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        y = self.norm1(x)
        scores = self.query(y) @ self.key(y).mT / 8**0.5
        x = x + self.drop(self.out(scores.softmax(-1) @ self.value(y)))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(x[:, 0])


class JaxVit(nnx.Module):
    def __init__(self, width: int = 8) -> None:
        rngs = nnx.Rngs(0)

        def linear(a: int, b: int) -> nnx.Linear:
            return nnx.Linear(a, b, rngs=rngs)

        self.patches = nnx.Conv(1, width, (2, 2), 2, padding="VALID", rngs=rngs)
        self.token, self.positions = nnx.Param(jnp.zeros((1, 1, width))), nnx.Param(jnp.zeros((1, 5, width)))
        self.norm1, self.norm2 = (nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs) for _ in range(2))
        self.query, self.key, self.value = linear(width, width), linear(width, width), linear(width, width)
        self.out, self.up, self.down = linear(width, width), linear(width, 16), linear(16, width)
        self.drop, self.head = nnx.Dropout(0.5, rngs=rngs), linear(width, 3)

    def __call__(self, x: Any) -> Any:
        x = self.patches(x).reshape(len(x), 4, -1)
        x = jnp.concatenate([jnp.broadcast_to(self.token[...], (len(x), 1, x.shape[-1])), x], 1) + self.positions[...]
        y = self.norm1(x)
        scores = self.query(y) @ self.key(y).mT / 8**0.5
        x = x + self.drop(self.out(jax.nn.softmax(scores) @ self.value(y)))
        x = x + self.down(nnx.gelu(self.up(self.norm2(x)), approximate=False))
        return self.head(x[:, 0])


class TorchConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.conv(x)).tanh().mean((2, 3)))


class TorchLikeBatchNorm(nnx.BatchNorm):
    """`nnx.BatchNorm` with the running variance as torch computes it."""

    def __call__(self, x: Any, **keywords: Any) -> Any:
        before = self.var[...]
        y = super().__call__(x, **keywords)
        if not self.use_running_average:
            count = x.size // x.shape[-1]
            kept = self.momentum * before
            self.var[...] = kept + (self.var[...] - kept) * count / (count - 1)
        return y


class JaxConv(nnx.Module):
    def __init__(self, norm: type[nnx.BatchNorm] = TorchLikeBatchNorm, momentum: float = 0.9) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 4, (3, 3), padding="VALID", use_bias=False, rngs=rngs)
        self.last = nnx.Linear(4, 3, rngs=rngs)
        self.norm = norm(4, momentum=momentum, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(jnp.tanh(self.norm(self.conv(x))).mean((1, 2)))
