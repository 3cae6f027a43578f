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

    Every rung first trains in float64 and must end where the others do. Then each round starts a process for each
    rung, forwards and backwards in turn (A B B A), all with the same cores, threads and precision. Ratios are taken
    within rounds. The network has ReLU and no activation on the logits, which all libraries can express.
    """

    quick: bool = False
    """jax, torch, torch-hand and two floors, four rounds of three epochs, nothing else: done in two minutes."""
    rungs: tuple[str, ...] | None = None
    """Those to time, the first against the others: jax, jax-step, torch, torch-fused, torch-compile, torch-autotune,
    torch-hand, torch-tutorial, torch-step-graph, torch-epoch-graph, keras-jax, keras-torch, sklearn, products-torch,
    products-numpy, products-jax. By default all that the device and what is installed allow."""
    rounds: int = 8
    """At most: from six on no more are run than narrow intervals need."""
    epochs: int = 5
    """That are timed in a process, after a first one."""
    batch_size: int = 200
    hidden: tuple[int, ...] = (200, 200)
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    gpu: int | None = None
    """Which of the GPUs, counted from 0."""
    matmul_precision: Literal["highest", "tf32"] = "highest"
    """Of float32 products, in every rung."""
    many: bool = True
    """On a CPU also several models at once: --seeds, vmap, a process a core, or one after another."""
    whole: bool = True
    """Also times the trainers' commands from start to end, as they are typed."""
    sweep: bool = True
    """Also batch sizes from 20 to 20,000 and widths from 50 to 4,000."""
    json: Path | None = None
    """A new file for all samples."""
    plot: Path | None = None
    """A new file for the picture, an SVG."""

    def __post_init__(self) -> None:
        if self.rungs == ():
            raise UserError("--rungs needs one at least")
        for name in self.rungs or ():
            if current_name(name) not in VARIANTS:
                raise UserError(f"--rungs: {name} is none of {', '.join(VARIANTS)}")
        if self.rungs is not None and len(set(self.rungs)) < len(self.rungs):
            raise UserError("--rungs: each at most once")
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
        return replace(
            PRESETS["leaky"],
            activation="relu",
            last_activation="none",
            batch_size=self.batch_size,
            hidden=self.hidden,
            dtype=self.dtype,
            device=self.device,
            gpu=self.gpu,
            matmul_precision=self.matmul_precision,
        )

    @property
    def device_flags(self) -> list[str]:
        """Of a trainer's command that computes as the rungs do."""
        gpu = [] if self.gpu is None else ["--gpu", str(self.gpu)]
        return ["--device", self.device, "--matmul-precision", self.matmul_precision, *gpu]
