"""The half that runs in a framework's own process: a trained network that answers."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from mlp_workload.doctor.probe import Facts, tell
from mlp_workload.interface import Network
from mlp_workload.predict.trained import Trained


def answer(load_network: Callable[[Trained], Network]) -> None:
    """The process's `main`, with a run's folder as its argument; ends with standard input.

    Each line there is an image (pixels,) as hexadecimal bytes, each line it writes one of JSON, by `tell`: one when it
    is ready, then an answer to each image.
    """
    with contextlib.suppress(BrokenPipeError):  # the page's server was killed
        tell(partial(_answers, load_network))


def _answers(load_network: Callable[[Trained], Network]) -> Iterator[Facts]:
    network = load_network(trained := Trained.load(Path(sys.argv[1])))
    network.predict(np.zeros((1, trained.widths[0]), np.uint8))  # JAX compiles it
    yield {"ready": True}
    for line in sys.stdin:
        prediction = network.predict(np.frombuffer(bytes.fromhex(line), np.uint8)[None])
        yield {
            "probabilities": prediction.probabilities[0].tolist(),
            "activations": [layer[0].tolist() for layer in prediction.activations],
        }
