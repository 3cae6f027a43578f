"""The parts that both sides share: the batch, the files between the processes, and the mistakes to plant."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlp_workload.data import load

Mistake = Literal["none", "layer-norm-epsilon", "gelu-tanh", "nhwc-flatten", "batch-norm-momentum"]


@dataclass(frozen=True)
class Arguments:
    """Records a pass of one side."""

    trace: Path
    """Writes the trace to this file."""
    weights: Path
    """File of the weights that both sides start from."""
    mistake: Mistake = "none"
    """Plants this mistake in the port."""


def batch() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    """Images (64, 28, 28), 0 to 1, and their labels (64,)."""
    examples = load("mnist").train
    return examples.images[:64] / 255, examples.labels[:64]
