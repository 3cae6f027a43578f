"""Protocols that a framework must implement, and the names of the tensors of a training step.

For an MLP these stand in causal order: the batch (`batch.images`, `batch.labels`, `batch.digest`), `inputs`, then
`layers.0.pre_activation`, `layers.0.activation` and so on to `logits`, `loss`, `logits.grad`, the gradients from the
last layer back (`layers.2.weight.grad`), the optimizer's slots (`layers.0.weight.momentum`), and the parameters after
the step (`layers.0.weight`). Weights and their like are (fan_out, fan_in); the rest is (batch, features).
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.metrics import Evaluation
from mlp_workload.optimizer import SLOTS
from mlp_workload.weights import Parameters, is_parameter

Array = npt.NDArray[Any]
Losses = npt.NDArray[np.floating[Any]]


class Implementation(Protocol):
    """Framework and device of a training."""

    @property
    def framework(self) -> str: ...

    @property
    def packages(self) -> Sequence[str]:
        """Whose versions matter; the first is the framework's."""

    @property
    def device(self) -> str:
        """ "cpu", or "gpu" with the GPU's name."""

    @property
    def gpu_versions(self) -> Mapping[str, str]:
        """Versions of the libraries that it computes with on a GPU; empty on a CPU."""

    @property
    def threads(self) -> int | None:
        """CPU threads that share each product; None if unknown, and on a GPU."""

    @property
    def peak_gpu_bytes(self) -> int | None:
        """The most of a GPU's memory that the framework's allocator had given out; None on a CPU."""


class Trainer(Implementation, Protocol):
    """Trains one model, in one framework.

    Arrays come and go as NumPy's, parameters under the names of `mlp_workload.weights`, all in the run's dtype. The
    parity check asks for `state`, `load_state`, `trace_step`, `train_steps`, `evaluate`; training for all.
    """

    def compile(self) -> None:
        """Makes everything ready, so that the first epoch takes as long as the others."""

    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        """Trains on the examples `order` (n,), from batch `first` to before `last`, by default to the end.

        Batches count from 0. Returns their losses (steps,) when all is computed. The bits do not depend on how an epoch
        is divided into calls.
        """

    def evaluate(self) -> Evaluation:
        """Evaluates the whole test set with the current weights."""

    def parameters(self) -> Parameters:
        """Returns a copy of the weights under canonical names."""

    def state(self) -> Parameters:
        """Returns a copy of the weights and the optimizer's state, on which the next step depends.

        Names and shapes are those of `mlp_workload.optimizer.state_shapes`. The optimizer's state starts with zeros.
        """

    def load_state(self, state: Parameters) -> None:
        """Continues from a copy of what `state` returned."""

    def max_over_processes(self, number: int) -> int:
        """Returns the largest `number` of all processes of the run, which all call this; 32 bits, with a sign."""

    def profile(self, folder: Path) -> AbstractContextManager[Any]:
        """Writes a trace of what runs within the context into `folder`, by the framework's own profiler."""

    def trace_step(self, batch: npt.NDArray[np.int32]) -> Mapping[str, Array]:
        """Trains on the examples `batch` (b,), as `train_steps` does on each batch; returns `step_tensors`."""


MakeTrainer = Callable[[Config, Dataset, Parameters | None], Trainer]
"""Makes a trainer from a copy of the starting weights, or, given None, with weights that the framework draws.

Raises `UserError` if the device is not available."""


Framework = Callable[[Config], AbstractContextManager[MakeTrainer]]
"""`train.framework` of a side's package, for its own command and for comparisons.

It imports the framework; all that a trainer does happens within the context. It raises `PeerLost` if another process
of the run has ended."""


class SeedsTrainer(Implementation, Protocol):
    """Trains several models together, which differ in their seeds."""

    @property
    def at_once(self) -> int:
        """Number of models that train together, at most."""

    def compile(self) -> None:
        """Makes everything ready, so that the first epoch takes as long as the others."""

    def start(self, seeds: Sequence[int]) -> None:
        """Starts a model for each of these seeds, with drawn or given weights."""

    def train_steps(self, orders: npt.NDArray[np.int32]) -> Losses:
        """Trains each model on the examples in its row of `orders` (models, n); returns the losses (models, steps)."""

    def evaluate(self) -> list[Evaluation]: ...

    def parameters(self) -> list[Parameters]:
        """Returns copies of each model's weights under canonical names."""


MakeSeedsTrainer = Callable[[Config, Dataset, Parameters | None], SeedsTrainer]


@dataclass(frozen=True)
class Prediction:
    """Results for n images, in the run's dtype.

    `probabilities` (n, classes) are the softmax of the logits, `activations` (n, units) those of each hidden layer.
    """

    probabilities: npt.NDArray[np.floating[Any]]
    activations: tuple[npt.NDArray[np.floating[Any]], ...]


class Network(Protocol):
    """A trained network, on the CPU."""

    def predict(self, images: npt.NDArray[np.uint8]) -> Prediction:
        """Predicts images (n, height, width), uint8, which it normalises as in the training."""


def pre_activation(layer: int) -> str:
    return f"layers.{layer}.pre_activation"


def activation(layer: int, layers: int) -> str:
    return "logits" if layer == layers - 1 else f"layers.{layer}.activation"


def step_tensors(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the tensors of one step of an MLP in causal order, the batch's digest added."""
    parameters = [name for name in tensors if is_parameter(name)]
    layers = len(parameters) // 2
    order = ["batch.images", "batch.labels", "batch.digest", "inputs"]
    for layer in range(layers):
        order += [pre_activation(layer), activation(layer, layers)]
    order += ["loss", "logits.grad"]
    order += [f"layers.{layer}.{kind}.grad" for layer in reversed(range(layers)) for kind in ("weight", "bias")]
    order += [name for slot in SLOTS for parameter in parameters if (name := f"{parameter}.{slot}") in tensors]
    order += [name for name in tensors if name.startswith("optimizer.")]
    order += parameters
    tensors = {**tensors, "batch.digest": batch_digest(tensors["batch.images"], tensors["batch.labels"])}
    return {name: tensors[name] for name in order}


def batch_digest(images: Array, labels: Array) -> npt.NDArray[np.uint8]:
    """SHA-256 (32,) over a batch's raw pixels (batch, pixels) and its labels (batch,), in their order."""
    digest = sha256(np.ascontiguousarray(images).tobytes() + labels.astype("<i4").tobytes()).digest()
    return np.frombuffer(digest, np.uint8)


TITLES = {"jax": "JAX", "torch": "PyTorch"}
"""Names of sides as people write them."""


@cache
def registered_sides() -> Mapping[str, str]:
    """Returns the installed sides, jax before torch, with the package of each: the entry points `mlp_workload.sides`.

    A side's package has `train.framework`, `drawing` for the page of `--draw`, and `doctor_probe`. Raises `UserError`
    if there are none.
    """
    sides = {point.name: point.value for point in sorted(entry_points(group="mlp_workload.sides"))}
    if not sides:
        raise UserError("this project is not installed here: make setup, or pip install . in its folder")
    return sides


def package_of(side: str) -> str:
    """Returns the package of a registered side; any other side is named by its package."""
    return registered_sides().get(side, side)


def framework_of(side: str) -> Framework:
    """Returns `train.framework` of the side's package. Raises `UserError` if its `train` has none."""
    module = import_module(f"{package_of(side)}.train")
    framework: Framework | None = getattr(module, "framework", None)
    if framework is None:
        raise UserError(f"--sides {side}: {module.__name__} has no `framework` of mlp_workload/interface.py")
    return framework


def check_is_there(side: str) -> None:
    """Raises `UserError` if there is no module `train` of the side's package, without importing any of it."""
    names = [*package_of(side).split("."), "train"]
    spec = importlib.util.find_spec(names[0])
    for end in range(2, len(names) + 1):
        places = spec and spec.submodule_search_locations
        spec = PathFinder.find_spec(".".join(names[:end]), places) if places else None
    if spec is None:
        raise UserError(f"--sides {side}: there is no module {'.'.join(names)}")
