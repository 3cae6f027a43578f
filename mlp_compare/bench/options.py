"""The flags of `mlp_compare.bench`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mlp_compare.bench.variants import VARIANTS
from mlp_compare.old_names import current_name
from mlp_workload.config import PRESETS, Config
from mlp_workload.data.shipped import TRAIN_EXAMPLES
from mlp_workload.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Times the training of one network, in JAX, in PyTorch and by other libraries, in fresh processes that take turns.

    Every variant first trains in float64 and must end where the others do. Then each round starts a process for each
    variant, forwards and backwards in turn (A B B A), all with the same cores, threads and precision. Ratios are taken
    within rounds. The network has ReLU and no activation on the logits, which all libraries can express.
    """

    quick: bool = False
    """Times only jax, torch, torch-hand and two lower bounds, four rounds of three epochs, in two minutes."""
    variants: tuple[str, ...] | None = None
    """Times these, the first against the others: jax, jax-step, torch, torch-fused, torch-compile, torch-autotune,
    torch-hand, torch-tutorial, torch-step-graph, torch-epoch-graph, keras-jax, keras-torch, sklearn, products-torch,
    products-numpy, products-jax; by default all that can run here."""
    rounds: int = 8
    """Runs at most this many rounds; from six on it stops when the intervals are narrow."""
    epochs: int = 5
    """Times this many epochs in each process, after a first one."""
    batch_size: int = 200
    """Examples per step."""
    hidden: tuple[int, ...] = (200, 200)
    """Widths of the hidden layers."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of parameters, activations and gradients."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Times on this device; auto takes a GPU if there is one."""
    gpu: int | None = None
    """Times on this one of the GPUs, counted from 0."""
    matmul_precision: Literal["highest", "tf32"] = "highest"
    """Precision of float32 matrix products in every variant."""
    seeds: bool = True
    """Also times several models at once on a CPU: --seeds, vmap, a process a core, or one after another."""
    whole: bool = True
    """Also times the trainers' commands from start to end, as they are typed."""
    sweep: bool = True
    """Also times batch sizes from 20 to 20,000 and widths from 50 to 4,000."""
    json: Path | None = None
    """Writes all samples to this new file."""
    plot: Path | None = None
    """Writes the picture to this new SVG file."""

    def __post_init__(self) -> None:
        if self.variants == ():
            raise UserError("--variants needs one at least")
        for name in self.variants or ():
            if current_name(name) not in VARIANTS:
                raise UserError(f"--variants: {name} is none of {', '.join(VARIANTS)}")
        if self.variants is not None and len(set(self.variants)) < len(self.variants):
            raise UserError("--variants: each at most once")
        for flag in ("rounds", "epochs"):
            if not 1 <= getattr(self, flag) <= 1000:
                raise UserError(f"--{flag} must be from 1 to 1000, got {getattr(self, flag)}")
        if self.quick and (self.rounds, self.epochs) != (Bench.rounds, Bench.epochs):
            raise UserError("--quick has rounds and epochs of its own")
        if self.config.batch_size > TRAIN_EXAMPLES:
            raise UserError(
                f"--batch-size must be at most {TRAIN_EXAMPLES}, the training examples, got {self.batch_size}"
            )

    @property
    def config(self) -> Config:
        names = ("batch_size", "hidden", "dtype", "device", "gpu", "matmul_precision")
        settings = {name: getattr(self, name) for name in names}
        return replace(PRESETS["leaky"], **settings | {"activation": "relu", "last_activation": "none"})

    @property
    def device_flags(self) -> list[str]:
        """Flags of a trainer's command that computes as the variants do."""
        gpu = [] if self.gpu is None else ["--gpu", str(self.gpu)]
        return ["--device", self.device, "--matmul-precision", self.matmul_precision, *gpu]
