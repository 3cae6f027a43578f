"""Cost model of a training step on several devices: a sum of counts times costs.

The counts follow from the network and the devices. The costs belong to the machine, and are fitted to timings by least
squares. Everything is float32; widths and batch sizes, and therefore results, may be arrays.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from mlp_compare.bench import lower_bound

ITEM = 4
"""Bytes of a float32."""


class Costs(NamedTuple):
    """Seconds of one unit of each kind of work."""

    launch: float
    """Start of a step's operations on one device."""
    operation_alone: float
    """A floating-point operation of a device that works alone, with all cores."""
    operation_shared: float
    """A floating-point operation of a device, or core, while others work too."""
    byte_updated: float
    """A byte read or written in the update of parameters."""
    meeting: float
    """Synchronization of all devices."""
    hop: float
    """Message from one device to the next in a ring."""
    byte_exchanged: float
    """A byte that a device sends."""


Counts = Costs
"""Number of units of each kind that a step has in sequence."""


def seconds(costs: Costs, counts: Counts) -> Any:
    """Returns the seconds of a step. The model has no overlap, so simultaneous work counts twice."""
    return sum(cost * count for cost, count in zip(costs, counts, strict=True))


def parameters(widths: Sequence[Any]) -> Any:
    """Returns the number of parameters: 199,210 for (784, 200, 200, 10), 0.8 MB in float32."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))


def all_reduce_bytes(size: Any, devices: int) -> Any:
    """Returns the bytes that each device sends to sum `size` bytes in a ring: 2(N - 1)/N of them.

    These are N - 1 pieces to reduce and as many to gather (Patarasuk and Yuan, "Bandwidth optimal all-reduce
    algorithms", 2009).
    """
    return 2 * (devices - 1) / devices * size


def counts(
    widths: Sequence[Any], batch_size: Any, devices: int, cores: int | None = None, split_hidden: int = 1
) -> Counts:
    """Returns the counts of a step on `devices` that share `cores` or, if None, have cores of their own.

    N devices on C cores take N / min(N, C) turns for their work. Sharing a batch therefore divides the operations by at
    most min(N, C), while the update, which each device does for itself, is done N times.

    The gradients, as large as the parameters, are summed in one all-reduce. With `split_hidden` M, that is done across
    N / M groups, by each device for its part. Within a group, the outputs of all hidden layers but the last are
    gathered, and their gradients and the logits are summed, as XLA compiles it.
    """
    at_once = devices if cores is None else min(devices, cores)
    turns, shares = devices / at_once, devices // split_hidden
    operations = lower_bound.operations(widths, batch_size) / at_once
    size = ITEM * parameters(widths) / split_hidden
    meetings, hops = int(shares > 1), 2 * (shares - 1)
    exchanged = all_reduce_bytes(size, shares)
    if split_hidden > 1:
        *gathered, _ = hidden = widths[1:-1]
        one_way = (split_hidden - 1) / split_hidden
        meetings += 2 * len(hidden) - 1
        hops += (split_hidden - 1) * (3 * len(gathered) + 2)
        exchanged += one_way * ITEM * batch_size / shares * (3 * sum(gathered) + 2 * widths[-1])
    return Counts(
        launch=turns,
        operation_alone=operations if devices == 1 else 0 * operations,
        operation_shared=operations if devices > 1 else 0 * operations,
        byte_updated=turns * 3 * size,  # parameters and gradients are read, parameters written
        meeting=meetings,
        hop=hops,
        byte_exchanged=turns * exchanged,
    )
