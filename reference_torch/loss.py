"""Cross-entropy of logits."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

IGNORED = torch.iinfo(torch.int64).min
"""Label that torch's `cross_entropy` skips, in place of its default -100. No label becomes this one."""


@dataclass(frozen=True)
class Loss:
    """Losses per example (batch,), in nats, and their sum and mean."""

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
    """Returns -sum_k t_k log softmax(logits)_k for logits (batch, classes), t = (1 - s) onehot(label) + s / classes.

    Raises `IndexError` if a label is outside 0 .. classes-1; on a GPU a device assertion of torch fails instead.
    Raises `ValueError` unless there is one integer label per example.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.dtype == torch.bool or labels.is_floating_point():
        raise ValueError(f"labels {tuple(labels.shape)}, {labels.dtype}, of logits {tuple(logits.shape)}")
    labels = labels.long().clamp(min=IGNORED + 1)
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none", label_smoothing=label_smoothing)
    return Loss(losses)
