"""What a trained network makes of images, computed by either framework."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Prediction:
    """Of n images: `probabilities` (n, classes), the softmax of the logits, and each hidden layer's `activations`
    (n, units), from the input on; in the run's dtype."""

    probabilities: Array
    activations: tuple[Array, ...]


class Network(Protocol):
    """A trained network, on the CPU."""

    def predict(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Of images (n, height, width), normalised as in the training."""
