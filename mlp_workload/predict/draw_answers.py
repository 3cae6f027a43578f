"""The child process of the drawing page: a trained network that answers with predictions."""

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
    """Answers images until standard input ends. The process's argument is the run's folder.

    Each line of input is an image (pixels,) in hexadecimal. Each line of output is JSON: one when the network is ready,
    then one for each image.
    """
    with contextlib.suppress(BrokenPipeError):  # the page's server was killed
        tell(partial(_answers, load_network))


def _answers(load_network: Callable[[Trained], Network]) -> Iterator[Facts]:
    network = load_network(trained := Trained.load(Path(sys.argv[1])))
    network.predict(np.zeros((1, trained.widths[0]), np.uint8))  # so that JAX compiles it
    yield {"ready": True}
    for line in sys.stdin:
        prediction = network.predict(np.frombuffer(bytes.fromhex(line), np.uint8)[None])
        yield {
            "probabilities": prediction.probabilities[0].tolist(),
            "activations": [layer[0].tolist() for layer in prediction.activations],
        }
