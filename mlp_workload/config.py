"""One description of a run."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np

from mlp_workload.data import check_source
from mlp_workload.errors import UserError, refusal
from mlp_workload.initial import Initialization

Activation = Literal["relu", "leaky_relu", "none"]
LARGEST_SEED = 2**32 - 1
"""Both frameworks' generators take it."""
LARGEST_WIDTH = 1_000_000
"""Far from what memory allows, and near enough that no product of two overflows."""
LEAKY_RELU_SLOPE = 0.01
"""Slope of leaky_relu for inputs up to 0."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training run. The presets `relu` and `leaky` are the two programs of the tutorial.

    From Python, start from `PRESETS["relu"]` by `dataclasses.replace`: the field `preset` alone changes no other.
    Raises `UserError`, naming the flag, if a value makes no sense or is of another type.
    """

    preset: Literal["relu", "leaky"] = "leaky"
    """Sets the defaults of the flags below as in one of the tutorial's programs: relu has ReLU, Kaiming-normal weights
    and standardised pixels; leaky has LeakyReLU, torch's Linear weights and pixels in 0..1."""
    dataset: str = "mnist"
    """Trains on this data set: mnist (in the package), idx:DIR (four IDX files) or tfds:NAME (tensorflow-datasets)."""
    transpose_images: bool | None = None
    """Exchanges rows and columns of the images; by default only for EMNIST, which is stored transposed."""
    epochs: int = 10
    """Passes over the training set; 0 only evaluates and saves the initial weights."""
    batch_size: int = 200
    """Examples per step; the last step of an epoch has fewer if the training set does not divide evenly."""
    learning_rate: float = 0.01
    """Constant learning rate of the optimizer."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Updates the parameters by this rule, as in torch."""
    momentum: float = 0.0
    """Momentum of SGD, as in torch without dampening."""
    nesterov: bool = False
    """Uses Nesterov momentum, as in torch; needs --momentum."""
    beta1: float = 0.9
    """Decay of the mean gradient in adam and adamw."""
    beta2: float = 0.999
    """Decay of the mean squared gradient in adam and adamw."""
    epsilon: float = 1e-8
    """Added to the root of the mean squared gradient in adam and adamw."""
    weight_decay: float = 0.0
    """L2 penalty, added to the gradients of weights and biases before the momentum, as in torch; adamw decays the
    parameters instead."""
    label_smoothing: float = 0.0
    """Spreads this share of each training label over all classes; the test loss has none."""
    seed: int = 0
    """Seed of the batch order, which is the same in both frameworks, and of the initial weights."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of parameters, activations and gradients."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the hidden layers; none gives a linear model."""
    activation: Literal["relu", "leaky_relu"] = "leaky_relu"
    """Activation after each layer; leaky_relu has slope 0.01 below 0."""
    last_activation: Literal["same", "none"] = "same"
    """Applies the activation to the logits too, as the tutorial does (same), or not (none); same can lose classes for
    good."""
    initialization: Initialization = "torch_linear"
    """Draws the weights uniformly within +-1/sqrt(fan_in) (torch_linear), with variance 2/fan_in (kaiming_normal), or
    truncated with variance 1/fan_in (flax_linear)."""
    pixel_mean: float = 0.0
    """Mean to subtract from the pixels, which are in 0..1."""
    pixel_std: float = 1.0
    """Standard deviation to divide the pixels by."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Trains on this device; auto takes a GPU if the framework sees one, and gpu never falls back to the CPU."""
    gpu: int | None = None
    """Trains on this one of the GPUs that the framework sees, counted from 0."""
    matmul_precision: Literal["highest", "tf32", "bf16"] = "highest"
    """Precision of float32 matrix products: IEEE (highest), or operands rounded to 10 bits (tf32) or 7 bits (bf16) on
    GPUs since Ampere."""
    deterministic: bool = False
    """Makes runs on a GPU repeatable bit by bit; those on a CPU are so anyway."""
    devices: int = 1
    """Number of devices that share each batch; JAX can split one CPU into this many, and torch needs torchrun."""
    split_hidden: int = 1
    """Splits each hidden layer over this many of the --devices (tensor parallelism); in JAX only."""
    pad_batches: bool = False
    """Allows a --batch-size that the devices cannot share evenly; padding does not change the loss."""
    initial_weights: Path | None = None
    """Starts from this safetensors file, such as another run's weights, instead of --initialization."""
    run_dir: Path | None = None
    """Writes the run to this new or empty folder; by default into runs/, named by time, framework, preset and seed."""

    def __post_init__(self) -> None:
        for field, kind in get_type_hints(type(self)).items():
            if choices := get_args(kind) if getattr(kind, "__origin__", None) is Literal else ():
                self._require(field, getattr(self, field) in choices, f"one of {', '.join(choices)}")
            if kind in _TYPES:
                self._require(field, _is(getattr(self, field), kind), _TYPES[kind])
        try:
            check_source(self.dataset)
        except UserError as error:
            raise UserError(f"--dataset: {error}") from None
        turned = self.transpose_images
        self._require("transpose_images", turned is None or isinstance(turned, bool), "true, false or none")
        for field, least in {"epochs": 0, "batch_size": 1, "devices": 1, "split_hidden": 1}.items():
            self._require(field, getattr(self, field) >= least, f"at least {least}")
        smallest, largest = float(np.finfo(self.dtype).tiny), float(np.finfo(self.dtype).max)
        from_zero = f"from 0 to {largest:.3g}, the largest {self.dtype}"
        self._require("learning_rate", 0 <= self.learning_rate <= largest, from_zero)
        others = ("beta1", "beta2", "epsilon") if self.optimizer == "sgd" else ("momentum", "nesterov")
        for name in others:
            is_default = getattr(self, name) == getattr(Config, name)
            self._require(name, is_default, f"left out with --optimizer {self.optimizer}")
        self._require("momentum", 0 <= self.momentum <= largest, from_zero)
        self._require("momentum", self.momentum > 0 or not self.nesterov, "above 0 for --nesterov")
        self._require("beta1", 0 <= self.beta1 < 1, "from 0 to below 1")
        self._require("beta2", 0 <= self.beta2 < 1, "from 0 to below 1")
        self._require("epsilon", smallest <= self.epsilon <= largest, f"above 0 and finite in {self.dtype}")
        self._require("weight_decay", 0 <= self.weight_decay <= largest, from_zero)
        self._require("label_smoothing", 0 <= self.label_smoothing <= 1, "from 0 to 1")
        self._require("seed", 0 <= self.seed <= LARGEST_SEED, f"from 0 to {LARGEST_SEED}")
        fits = all(_is(width, int) and 1 <= width <= LARGEST_WIDTH for width in self.hidden)
        self._require("hidden", fits, f"widths from 1 to {LARGEST_WIDTH}")
        self._require("gpu", self.gpu is None or (_is(self.gpu, int) and self.gpu >= 0), "a number from 0 on")
        self._require("gpu", self.gpu is None or self.device != "cpu", "left out with --device cpu")
        self._require("gpu", self.gpu is None or self.devices == 1, "left out with several --devices")
        ieee = self.matmul_precision == "highest"
        self._require("matmul_precision", ieee or self.dtype == "float32", f"highest for {self.dtype}")
        self._require("matmul_precision", ieee or self.device != "cpu", "highest with --device cpu")
        check_divisible("--devices", self.devices, self.split_hidden, "--split-hidden")
        if not self.pad_batches:
            shares = "--devices" if self.split_hidden == 1 else "--devices over --split-hidden,"
            check_divisible("--batch-size", self.batch_size, self.devices // self.split_hidden, shares)
        self._require("split_hidden", self.split_hidden == 1 or bool(self.hidden), "1 without hidden layers")
        for width in self.hidden:
            check_divisible("--hidden", width, self.split_hidden, "--split-hidden")
        self._require("pixel_mean", abs(self.pixel_mean) <= largest, f"finite in {self.dtype}")
        self._require("pixel_std", smallest <= self.pixel_std <= largest, f"above 0 and finite in {self.dtype}")

    def _require(self, field: str, holds: bool, rule: str) -> None:
        if not holds:
            raise UserError(f"--{field.replace('_', '-')} must be {rule}, got {getattr(self, field)}")

    def widths(self, pixels: int, classes: int) -> tuple[int, ...]:
        """Returns the widths of all layers, input and output included: (784, 200, 200, 10) for MNIST."""
        return (pixels, *self.hidden, classes)

    @property
    def logits_activation(self) -> Activation:
        return self.activation if self.last_activation == "same" else "none"

    def activations(self, layers: int) -> list[Activation]:
        """Returns the activation after each of so many layers."""
        return [self.activation] * (layers - 1) + [self.logits_activation]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=str, indent=2) + "\n"

    @property
    def precision(self) -> str:
        """Precision of matrix products, in words."""
        return {"highest": f"IEEE {self.dtype}", "tf32": "TF32", "bf16": "bfloat16 operands"}[self.matmul_precision]

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Parses the result of `to_json`. Raises `UserError` if `text` is none."""
        try:
            values: dict[str, Any] = json.loads(text)
            for path in ("initial_weights", "run_dir"):
                values[path] = None if values[path] is None else Path(values[path])
            if unknown := sorted(values.keys() - get_type_hints(cls)):
                raise UserError(f"not the configuration of a run: {unknown[0]!r} is not a setting")
            return cls(**values | {"hidden": tuple(values["hidden"])})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"not the configuration of a run: {refusal(error)}") from error


FIRST_WITH_TF32 = 8.0
"""NVIDIA's compute capability of Ampere, which multiplies TF32 and bfloat16."""


def check_precision(config: Config, device: str, has_tf32: bool) -> None:
    """Raises `UserError` if the device can't multiply with the run's precision."""
    if config.matmul_precision != "highest" and not has_tf32:
        raise UserError(f"--matmul-precision {config.matmul_precision} is for GPUs since Ampere, and this is {device}")


def check_divisible(flag: str, value: int, by: int, name: str) -> None:
    """Raises `UserError`, with the nearest values above 0 that would do, where `value` is not divisible."""
    if value % by:
        below = value // by * by
        near = f"{below} or {below + by}" if below else f"{by}"
        raise UserError(f"{flag} must be divisible by {name} {by}: try {near}, got {value}")


_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _is(value: object, kind: type) -> bool:
    """Whether it is one; a whole number counts as a number, and true and false do not."""
    return isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)


PRESETS = {
    "relu": Config(
        preset="relu", activation="relu", initialization="kaiming_normal", pixel_mean=0.1307, pixel_std=0.3081
    ),
    "leaky": Config(preset="leaky"),
}
"""The tutorial's two programs: the hand-written one and the one on `nn.Module`."""
