"""Break-even points: the batch size or width from which more devices are faster."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.scaling.cost_model import Costs, counts, seconds
from mlp_workload.data.shipped import CLASSES, PIXELS, TRAIN_EXAMPLES

MOST_EXAMPLES, MOST_UNITS = TRAIN_EXAMPLES, 20_000
"""Largest batch, all of MNIST, and largest hidden layer."""


@dataclass(frozen=True)
class Devices:
    """`number` devices, `split_hidden` of which share each hidden layer.

    They share `cores` or, if that is None, have cores of their own.
    """

    number: int
    split_hidden: int = 1
    cores: int | None = None

    def seconds(self, costs: Costs, hidden: Sequence[Any], batch_size: Any) -> Any:
        """Returns the seconds of a step."""
        widths = (PIXELS, *hidden, CLASSES)
        return seconds(costs, counts(widths, batch_size, self.number, self.cores, self.split_hidden))


def batch_from(costs: Costs, width: int, many: Devices, than: Devices) -> int | None:
    """Returns the batch size from which `many` devices are faster than `than`, for two hidden layers of `width`.

    Only batch sizes that `many` share evenly count. None if they are not faster at `MOST_EXAMPLES`.
    """
    shares = many.number // many.split_hidden
    sizes = np.arange(shares, MOST_EXAMPLES + 1, shares)
    return _first_for_good(sizes, *(devices.seconds(costs, (width, width), sizes) for devices in (many, than)))


def width_from(costs: Costs, batch_size: int, many: Devices, than: Devices) -> int | None:
    """Returns the width of both hidden layers from which `many` devices are faster than `than`.

    None if they are not faster at `MOST_UNITS`.
    """
    widths = np.arange(many.split_hidden, MOST_UNITS + 1, many.split_hidden)
    return _first_for_good(widths, *(devices.seconds(costs, (widths, widths), batch_size) for devices in (many, than)))


def _first_for_good(values: Any, many: Any, than: Any) -> int | None:
    slower = np.flatnonzero(~(many < than))
    first = slower[-1] + 1 if len(slower) else 0
    return int(values[first]) if first < len(values) else None
