"""Cross-entropy of logits."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Loss:
    """Losses per example (batch,) in nats; what is made of them is said by name, never by an argument."""

    per_example: torch.Tensor

    @property
    def sum(self) -> torch.Tensor:
        return self.per_example.sum()

    @property
    def count(self) -> int:
        return self.per_example.shape[0]

    @property
    def mean(self) -> torch.Tensor:
        return self.sum / self.count


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> Loss:
    """-sum_k t_k log softmax(logits)_k with t = (1 - s) onehot(label) + s / classes, from logits (batch, classes).

    Raises `IndexError` on a label (batch,) outside 0 .. classes-1; on a GPU torch's device assertion fails instead.
    """
    return Loss(F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing))
