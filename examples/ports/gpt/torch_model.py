"""The original, in torch."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu


def rotate(x: torch.Tensor, base: float = 10_000) -> torch.Tensor:
    """Returns x (batch, heads, tokens, channels) with channel i and i + channels / 2 turned by the token's angle."""
    tokens, channels = x.shape[-2:]
    frequencies = base ** (-torch.arange(0, channels, 2, dtype=x.dtype) / channels)
    angles = torch.arange(tokens, dtype=x.dtype)[:, None] * frequencies
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Causal attention in which several query heads share a key and a value head."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.channels = width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_heads * self.channels, bias=False)
        self.value = nn.Linear(width, kv_heads * self.channels, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.queries_per_key = heads // kv_heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            y.unflatten(-1, (-1, self.channels)).transpose(1, 2) for y in (self.query(x), self.key(x), self.value(x))
        )
        k = rotate(k).repeat_interleave(self.queries_per_key, dim=1)
        v = v.repeat_interleave(self.queries_per_key, dim=1)
        y = scaled_dot_product_attention(rotate(q), k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(width, heads, kv_heads)
        self.norm2 = nn.RMSNorm(width, eps=1e-5)
        self.mlp = MLP(width, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """Tokens (batch, length) to logits (batch, length, vocabulary) by the embedding's own weights."""

    def __init__(
        self,
        vocabulary: int = 50,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        kv_heads: int = 2,
        hidden: int = 80,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList([Block(width, heads, kv_heads, hidden) for _ in range(depth)])
        self.norm = nn.RMSNorm(width, eps=1e-5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return nn.functional.linear(self.norm(x), self.embedding.weight)
