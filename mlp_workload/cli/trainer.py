"""The flags of a trainer's command."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from mlp_workload.cli.parse import one_line_errors, parse
from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import UserError
from mlp_workload.files import expand
from mlp_workload.run.checkpointing import CHECKPOINT_EVERY, Resume
from mlp_workload.run.folder import has_begun, read_config
from mlp_workload.run.output_options import Watching

C = TypeVar("C", bound=Config)
O = TypeVar("O", bound="Training")
T = TypeVar("T")


def parse_config(arguments: Sequence[str], kind: type[C], **options: Any) -> C:
    """The run that `arguments` describe: the flags that are given, over the preset's values for the rest.

    `kind` is `Config` or one with more flags. `options` are tyro's, such as `prog` and `description`.

    Raises `UserError` in one line where they make no sense, `SystemExit` after `--help`.
    """

    chosen, rest = parse(_Preset, arguments, return_unknown_args=True, add_help=False)
    values = dict(vars(PRESETS.get(chosen.preset, Config())))
    wants_help = bool({"-h", "--help"} & set(rest))  # which would print the text of another's config.json as it is
    if issubclass(kind, Training) and not wants_help:
        new = chosen.resume_or_start and expand(chosen.resume_or_start)
        if chosen.resume is not None:
            values = _begun("--resume", expand(chosen.resume))
        elif new is not None and has_begun(new):
            values = _begun("--resume-or-start", new)
        elif new is not None:
            values["run_dir"] = new
    return cast(C, parse(kind, arguments, default=kind(**values), **options))


def _begun(flag: str, folder: Path) -> dict[str, Any]:
    """The configuration of the run in `folder`, which `flag` named. Raises `UserError` where there is none."""
    try:
        for path in folder.rglob("*"):
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{folder}: {path.relative_to(folder)} leads out of the folder")
        return vars(replace(read_config(folder), run_dir=folder, gpu=None))  # which GPU is for this machine to say
    except UserError as error:
        raise UserError(f"{flag} {error}") from error
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise UserError(f"{flag} {folder}: cannot be read ({error})") from error


@dataclass
class _Preset:
    preset: str = Config.preset
    resume: Path | None = None
    resume_or_start: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Training(Watching, Config):
    """What a trainer's command takes: a run, and how it is watched."""

    resume: Path | None = None
    """The folder of a run, of either trainer, that goes on from its newest checkpoint; needs no other flag. More
    --epochs can be given, another --device or number of --devices, and where the data are now."""
    resume_or_start: Path | None = None
    """A folder: resumes its run or, if it has no checkpoint yet, begins one there; does nothing if it is finished. For
    jobs that are started again by the same command."""
    checkpoint_every: int = CHECKPOINT_EVERY
    """Steps from one checkpoint to the next, at least; an epoch of fewer steps is not interrupted for one."""
    seeds: int | None = None
    """So many runs, with --seed and the seeds after it: a run folder each, and seeds.json. Not drawn on Visdom."""

    @property
    def config(self) -> Config:
        return part(Config, self)

    @property
    def resumes(self) -> Resume:
        return "or_start" if self.resume_or_start is not None else self.resume is not None

    @property
    def watching(self) -> Watching:
        return part(Watching, self)

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        Watching.__post_init__(self)
        self._require("checkpoint_every", self.checkpoint_every >= 1, "at least 1")
        if self.resume is not None and self.resume_or_start is not None:
            raise UserError("--resume and --resume-or-start: one of them, not both")
        folder = self.resume or self.resume_or_start
        if folder and self.run_dir and expand(self.run_dir).resolve() != expand(folder).resolve():
            raise UserError(f"--run-dir {self.run_dir}: a run that is resumed stays in its folder")
        if self.seeds is not None and (folder is not None or self.checkpoint_every != CHECKPOINT_EVERY):
            raise UserError("--resume, --resume-or-start and --checkpoint-every are for one run, not for --seeds")
        if self.seeds is not None and self.devices > 1:
            raise UserError("--devices is for one run, not for --seeds, which trains a model on each core")


def run_trainer(program: str, description: str, kind: type[O], train: Callable[[O], object]) -> None:
    """A trainer's `main`: parses the process's arguments, a `kind`, and trains."""
    with one_line_errors(program):
        train(parse_config(sys.argv[1:], kind, prog=program, description=description))


def part(kind: type[T], options: Any) -> T:
    """Those fields of `options` that make up a `kind`."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})  # type: ignore[arg-type]
