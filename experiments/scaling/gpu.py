"""Figures of one measured GPU and assumptions about several; results for several GPUs are computed, not measured."""

from dataclasses import dataclass

from experiments.scaling.cost_model import Costs, counts
from mlp_compare.bench import lower_bound
from mlp_workload.config import Config
from mlp_workload.data.shipped import CLASSES, PIXELS

NAME = "NVIDIA H200"
STEP_SECONDS, PRODUCT_SECONDS = 68.3e-6, 59.7e-6
"""Seconds of a step of 200 examples through 784-200-200-10 in JAX, and of its products alone.

Medians of `docs/benchmark-h200.json` over an epoch of 300 steps.
"""
WIDTHS, BATCH_SIZE = Config().widths(PIXELS, CLASSES), 200

PEAK_OPERATIONS, MEMORY_BYTES = 67e12, 4.8e12
"""Peak operations in float32 and bytes of memory per second: NVIDIA's data sheet of the H200 (SXM)."""
MEASURED_OPERATIONS = lower_bound.operations(WIDTHS, BATCH_SIZE) / PRODUCT_SECONDS
"""Operations per second of products that are too small to fill the GPU; larger ones are faster."""


@dataclass(frozen=True)
class Link:
    """Link between GPUs: `bandwidth` in bytes per second, one way; `hop` and `meeting` in seconds."""

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
    """Returns the costs of the GPU at `operations` per second; the rest of the measured step is launching."""
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
