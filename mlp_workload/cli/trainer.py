"""The flags of a trainer's command."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from mlp_workload.cli.parse import build, given_flags
from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import UserError
from mlp_workload.files import expand
from mlp_workload.run.checkpointing import CHECKPOINT_EVERY, Resume
from mlp_workload.run.folder import has_begun, read_config
from mlp_workload.run.output_options import OutputOptions

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Options of resuming a run and of saving its state."""

    resume: Path | None = None
    """Continues the run in this folder from its newest checkpoint; needs no other flag."""
    resume_or_start: Path | None = None
    """Resumes the run in this folder, starts one there if it has no checkpoint, and does nothing if it is finished."""
    checkpoint_every: int = CHECKPOINT_EVERY
    """Saves a checkpoint after at least this many steps; an epoch with fewer steps is not interrupted for it."""

    def __post_init__(self) -> None:
        if self.checkpoint_every < 1:
            raise UserError(f"--checkpoint-every must be at least 1, got {self.checkpoint_every}")
        if self.resume is not None and self.resume_or_start is not None:
            raise UserError("--resume and --resume-or-start: one of them, not both")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of a trainer's command."""

    config: Config
    output: OutputOptions
    checkpoints: CheckpointOptions
    seeds: int | None = None
    """Trains this many models, with --seed and the seeds after it, each into its own run folder; none is drawn on
    Visdom."""

    @property
    def resume(self) -> Resume:
        return "or_start" if self.checkpoints.resume_or_start is not None else self.checkpoints.resume is not None

    def __post_init__(self) -> None:
        folder, run_dir = self.checkpoints.resume or self.checkpoints.resume_or_start, self.config.run_dir
        if folder and run_dir and expand(run_dir).resolve() != expand(folder).resolve():
            raise UserError(f"--run-dir {run_dir}: a run that is resumed stays in its folder")
        if self.seeds is not None and self.checkpoints != CheckpointOptions():
            raise UserError("--resume, --resume-or-start and --checkpoint-every are for one run, not for --seeds")
        if self.seeds is not None and self.output.profile is not None:
            raise UserError("--profile is for one run, not for --seeds")
        if self.seeds is not None and self.config.devices > 1:
            raise UserError("--devices is for one run, not for --seeds, which trains a model on each core")


GROUPS = {
    "model": ("preset", "hidden", "activation", "last_activation", "initialization", "initial_weights", "dtype"),
    "optimization": (
        "epochs", "batch_size", "optimizer", "learning_rate", "momentum", "nesterov", "beta1", "beta2", "epsilon",
        "weight_decay", "label_smoothing", "seed", "seeds",
    ),
    "data": ("dataset", "transpose_images", "pixel_mean", "pixel_std"),
    "devices": (
        "device", "gpu", "matmul_precision", "deterministic", "devices", "split_hidden", "pad_batches", "coordinator",
        "processes", "process",
    ),
    "output": ("run_dir", *(field.name for field in fields(OutputOptions))),
    "checkpoints": [field.name for field in fields(CheckpointOptions)],
}  # fmt: skip
"""Groups of --help and the fields in each."""


def parse_config(arguments: Sequence[str], kind: type[T], **options: Any) -> T:
    """Returns the run that `arguments` describe: the given flags, over the preset's values or the resumed run's.

    `kind` is `Config` or a dataclass that contains one. `options` are those of `given_flags`.

    Raises `UserError` if they make no sense, `SystemExit` after --help.
    """
    given = given_flags(arguments, kind, groups=GROUPS, **options)
    values = vars(PRESETS[given.get("preset", Config.preset)])
    if "resume" in given:
        values = _begun("--resume", expand(given["resume"]))
    elif "resume_or_start" in given:
        folder = expand(given["resume_or_start"])
        values = _begun("--resume-or-start", folder) if has_begun(folder) else values | {"run_dir": folder}
    return build(kind, values | given)


def _begun(flag: str, folder: Path) -> dict[str, Any]:
    """Returns the configuration of the run in `folder`, which `flag` named. Raises `UserError` if there is none."""
    try:
        for path in folder.rglob("*"):
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{folder}: {path.relative_to(folder)} leads out of the folder")
        return vars(replace(read_config(folder), run_dir=folder, gpu=None))  # this machine may have other GPUs
    except UserError as error:
        raise UserError(f"{flag} {error}") from error
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise UserError(f"{flag} {folder}: cannot be read ({error})") from error
