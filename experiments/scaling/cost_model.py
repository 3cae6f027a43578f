"""What a step of training costs on several devices: how often it does what, times what each costs.

Every term is a count, known from the network and the devices, times a cost of the machine, so that the costs can be
fitted to timings by least squares. float32; widths, batch sizes and therefore all results may be arrays.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from mlp_compare.bench import lower_bound

ITEM = 4
"""Bytes of a float32."""


class Costs(NamedTuple):
    """Seconds of one of each."""

    launch: float
    """A step's operations started, on one device."""
    operation_alone: float
    """A floating-point operation where one device has all cores, or is one by itself."""
    operation_shared: float
    """The same on a core, or device, of several that work at the same time."""
    byte_updated: float
    """A byte read or written when parameters are updated."""
    meeting: float
    """Devices waiting for each other once."""
    hop: float
    """From one device to the next in a ring."""
    byte_exchanged: float
    """A byte that a device passes on."""


Counts = Costs
"""How many of each a step has, one after the other."""


def seconds(costs: Costs, counts: Counts) -> Any:
    """Of a step: nothing overlaps, so that what frameworks do at the same time counts twice."""
    return sum(cost * count for cost, count in zip(costs, counts, strict=True))


def parameters(widths: Sequence[Any]) -> Any:
    """How many: 199,210 of (784, 200, 200, 10), 0.8 MB in float32."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))


def all_reduce_bytes(size: Any, devices: int) -> Any:
    """That each device sends to sum `size` bytes in a ring: 2(N - 1)/N of them, N - 1 pieces to reduce and as many to
    gather (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", 2009)."""
    return 2 * (devices - 1) / devices * size


def counts(
    widths: Sequence[Any], batch_size: Any, devices: int, cores: int | None = None, split_hidden: int = 1
) -> Counts:
    """Of a step on `devices` that share `cores`, or each have their own without.

    N devices on C cores take N / min(N, C) turns for what each of them does, so that sharing a batch gains min(N, C)
    times the operations at most, while the update, which each does for itself, is done N times.

    The gradients, as large as the parameters, are summed in one all-reduce. With `split_hidden` M the N / M groups do
    that, each device for its part; within a group the outputs of every hidden layer but the last are gathered,
    their gradients summed, and so are the logits, from each device's part of the last hidden layer: what XLA compiles.
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
