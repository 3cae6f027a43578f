"""From which batch size, or which width, more devices are faster."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.scaling.cost_model import Costs, counts, seconds
from mlp_workload.data.shipped import CLASSES, PIXELS, TRAIN_EXAMPLES

MOST_EXAMPLES, MOST_UNITS = TRAIN_EXAMPLES, 20_000
"""Of a batch, all of MNIST; of a hidden layer."""


@dataclass(frozen=True)
class Devices:
    """So many, of which `split_hidden` share each hidden layer, on `cores` or, without, each on its own."""

    number: int
    split_hidden: int = 1
    cores: int | None = None

    def seconds(self, costs: Costs, hidden: Sequence[Any], batch_size: Any) -> Any:
        """Of a step."""
        widths = (PIXELS, *hidden, CLASSES)
        return seconds(costs, counts(widths, batch_size, self.number, self.cores, self.split_hidden))


def batch_from(costs: Costs, width: int, many: Devices, than: Devices) -> int | None:
    """The batch size, of those that `many` share evenly, from which on they are faster with two hidden layers of
    `width`; None where they are not even at `MOST_EXAMPLES`."""
    shares = many.number // many.split_hidden
    sizes = np.arange(shares, MOST_EXAMPLES + 1, shares)
    return _first_for_good(sizes, *(side.seconds(costs, (width, width), sizes) for side in (many, than)))


def width_from(costs: Costs, batch_size: int, many: Devices, than: Devices) -> int | None:
    """The width of both hidden layers from which on `many` are faster; None where they are not at `MOST_UNITS`."""
    widths = np.arange(many.split_hidden, MOST_UNITS + 1, many.split_hidden)
    return _first_for_good(widths, *(side.seconds(costs, (widths, widths), batch_size) for side in (many, than)))


def _first_for_good(values: Any, many: Any, than: Any) -> int | None:
    slower = np.flatnonzero(~(many < than))
    first = slower[-1] + 1 if len(slower) else 0
    return int(values[first]) if first < len(values) else None
