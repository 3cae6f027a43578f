"""One measured GPU, and what is assumed of several: all that is computed from it was not measured."""

from dataclasses import dataclass

from experiments.scaling.cost_model import Costs, counts
from mlp_compare.bench import lower_bound

NAME = "NVIDIA H200"
STEP_SECONDS, PRODUCT_SECONDS = 68.3e-6, 59.7e-6
"""Of a step of 200 examples through 784-200-200-10 in JAX, and of its products alone: medians of
`docs/benchmark-h200.json` over an epoch's 300 steps."""
WIDTHS, BATCH_SIZE = (784, 200, 200, 10), 200

PEAK_OPERATIONS, MEMORY_BYTES = 67e12, 4.8e12
"""A second, at most, in float32 and from memory: NVIDIA's data sheet of the H200 (SXM)."""
MEASURED_OPERATIONS = lower_bound.operations(WIDTHS, BATCH_SIZE) / PRODUCT_SECONDS
"""A second, of products that are too small to fill the card: larger ones have more."""


@dataclass(frozen=True)
class Link:
    """`bandwidth` in bytes a second, one way; `hop` and `meeting` in seconds."""

    name: str
    bandwidth: float
    hop: float
    meeting: float
    source: str


_NCCL = "latencies of a ring in the protocol for large messages, NCCL's own model (`src/graph/tuning.cc` at 01afd20)"
NVLINK = Link(
    "NVLink", 450e9, 3.4e-6, 8.4e-6, f"bandwidth: half of the 900 GB/s, both ways, of the H200's data sheet; {_NCCL}"
)
INFINIBAND = Link(
    "InfiniBand", 50e9, 9.6e-6, 8.4e-6, f"bandwidth: the 400 Gb/s of a ConnectX-7 card for each GPU; {_NCCL}"
)


def gpu_costs(link: Link, operations: float) -> Costs:
    """Of the card, if it does so many `operations` a second: whatever is left of the measured step is launching."""
    step = counts(WIDTHS, BATCH_SIZE, 1)
    launch = STEP_SECONDS - step.operation_alone / operations - step.byte_updated / MEMORY_BYTES
    return Costs(
        launch=launch,
        operation_alone=1 / operations,
        operation_shared=1 / operations,
        byte_updated=1 / MEMORY_BYTES,
        meeting=link.meeting,
        hop=link.hop,
        byte_exchanged=1 / link.bandwidth,
    )
