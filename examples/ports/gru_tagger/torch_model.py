"""The original, in torch."""

import torch
from torch import nn

PADDING = 0


class Tagger(nn.Module):
    """Tokens (batch, length), filled up with `PADDING`, to logits (batch, length, tags)."""

    def __init__(self, vocabulary: int = 20, width: int = 12, hidden: int = 16, tags: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.gru = nn.GRU(width, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, tags)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(self.embedding(tokens))
        return self.head(states)  # type: ignore[no-any-return]
