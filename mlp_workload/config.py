"""One description of a run."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
from tyro.conf import DisallowNone  # so that the flag has the forms --transpose-images and --no-transpose-images

from mlp_workload.data import check_source
from mlp_workload.errors import UserError, refusal
from mlp_workload.initial import Initialization

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
    Raises `UserError`, naming the flag, where a value makes no sense or is of another type.
    """

    preset: Literal["relu", "leaky"] = "leaky"
    """relu: Kaiming-normal weights, standardised pixels, ReLU. leaky: torch's Linear default, pixels in 0..1,
    LeakyReLU. Sets the defaults of the flags below; each can still be given."""
    dataset: str = "mnist"
    """mnist, shipped with the package; idx:DIR, a folder of four IDX files; tfds:NAME, through tensorflow-datasets."""
    transpose_images: Annotated[bool | None, DisallowNone] = None
    """Whether the images are stored transposed and are turned upright, by exchanging rows and columns. By default
    EMNIST's are, by its name; --no-transpose-images takes any set as it is stored."""
    epochs: int = 10
    """Passes over the training set; 0 evaluates and saves the initial weights."""
    batch_size: int = 200
    """Examples per step; where it does not divide the training set, the last step of an epoch is smaller."""
    learning_rate: float = 0.01
    """Of stochastic gradient descent, constant."""
    momentum: float = 0.0
    """Share of the last update's velocity that is kept; torch's rule, without dampening."""
    nesterov: bool = False
    """Nesterov's momentum, by torch's rule; needs --momentum."""
    weight_decay: float = 0.0
    """Times the parameters, added to the gradient before the momentum, by torch's rule; biases included."""
    label_smoothing: float = 0.0
    """Share of each training label spread over all classes; the test loss is always without."""
    seed: int = 0
    """Of the batch order, equal in both frameworks, and of the framework's own initial weights."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of parameters, activations and gradients."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the hidden layers; without any it is a linear model."""
    activation: Literal["relu", "leaky_relu"] = "leaky_relu"
    """After each layer. leaky_relu has slope 0.01 below 0, and at 0 as in torch."""
    last_activation: Literal["same", "none"] = "same"
    """Whether the logits pass the activation too, as in the tutorial. That can lose classes for good; none cures it."""
    initialization: Initialization = "torch_linear"
    """torch_linear: uniform in +-1/sqrt(fan_in). kaiming_normal: untruncated, variance 2/fan_in, biases 0. flax_linear:
    truncated normal, variance 1/fan_in, biases 0."""
    pixel_mean: float = 0.0
    """Subtracted from pixels in 0..1."""
    pixel_std: float = 1.0
    """Pixels are divided by it."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto takes a GPU if the framework sees one; gpu never falls back to the CPU."""
    gpu: int | None = None
    """Which of the GPUs that the framework sees, counted from 0; never falls back to the CPU."""
    matmul_precision: Literal["highest", "tf32", "bf16"] = "highest"
    """Of float32 products, in both frameworks. highest: IEEE. On GPUs since Ampere also tf32 and bf16: the operands are
    rounded to 10 or 7 bits of fraction; sums, and everything else, stay float32."""
    deterministic: bool = False
    """On a GPU too, the same bytes from run to run: sets what each framework needs for it before it starts."""
    devices: int = 1
    """How many share each batch, the same for whatever number of them up to rounding. On a CPU JAX makes as many of it;
    torch takes a process for each, which torchrun starts."""
    split_hidden: int = 1
    """So many of the --devices share each hidden layer in place of a batch, for widths beyond one device's memory; in
    JAX only."""
    pad_batches: bool = False
    """Allows a --batch-size that the devices can't share evenly: some then have an example less, and means stay exact.
    The last batch of an epoch, where it is smaller, may be uneven anyway."""
    initial_weights: Path | None = None
    """A safetensors file to start from, such as another run's weights.safetensors, in place of --initialization."""
    run_dir: Path | None = None
    """Where the run is written, a new or empty folder; by default runs/TIME-FRAMEWORK-PRESET-SEED."""

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
        self._require("epochs", self.epochs >= 0, "at least 0")
        self._require("batch_size", self.batch_size >= 1, "at least 1")
        self._require("devices", self.devices >= 1, "at least 1")
        self._require("split_hidden", self.split_hidden >= 1, "at least 1")
        smallest, largest = float(np.finfo(self.dtype).tiny), float(np.finfo(self.dtype).max)
        from_zero = f"from 0 to {largest:.3g}, the largest {self.dtype}"
        self._require("learning_rate", 0 <= self.learning_rate <= largest, from_zero)
        self._require("momentum", 0 <= self.momentum <= largest, from_zero)
        self._require("momentum", self.momentum > 0 or not self.nesterov, "above 0 for --nesterov")
        self._require("weight_decay", 0 <= self.weight_decay <= largest, from_zero)
        self._require("label_smoothing", 0 <= self.label_smoothing <= 1, "from 0 to 1")
        self._require("seed", 0 <= self.seed <= LARGEST_SEED, f"from 0 to {LARGEST_SEED}")
        self._require(
            "hidden",
            all(_is(width, int) and 1 <= width <= LARGEST_WIDTH for width in self.hidden),
            f"widths from 1 to {LARGEST_WIDTH}",
        )
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
        """Of all layers, input and output included: (784, 200, 200, 10) for MNIST."""
        return (pixels, *self.hidden, classes)

    @property
    def logits_activation(self) -> Literal["relu", "leaky_relu", "none"]:
        return self.activation if self.last_activation == "same" else "none"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), default=str, indent=2) + "\n"

    @property
    def precision(self) -> str:
        """Of products, as a comparison names it."""
        return {"highest": f"IEEE {self.dtype}", "tf32": "TF32", "bf16": "bfloat16 operands"}[self.matmul_precision]

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """What `to_json` wrote. Raises `UserError` where it did not."""
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
    """Raises `UserError` where the device can't multiply by the run's precision."""
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
