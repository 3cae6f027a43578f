"""From the command line to a `Config`, and from an error to one line."""

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro

from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import UserError, one_line
from mlp_workload.files import expand
from mlp_workload.keeper import CHECKPOINT_EVERY
from mlp_workload.run_folder import read_config
from mlp_workload.watching import Watching

C = TypeVar("C", bound=Config)
O = TypeVar("O", bound="Training")
T = TypeVar("T")

INSTALL = {
    "torch": "make setup, or pip install '.[torch]' in the project's folder",
    "jax": "make setup, or pip install . in the project's folder",
    "flax": "make setup, or pip install . in the project's folder",
    "optax": "make setup, or pip install . in the project's folder",
    "jinja2": "make setup, or pip install '.[compare]' in the project's folder",
    "PIL": "make setup, or pip install '.[predict]' in the project's folder",
    "matplotlib": "make setup, or pip install '.[compare]' in the project's folder",
    "onnx": "make setup, or pip install '.[export]' in the project's folder",
    "tensorboardX": "make setup, or pip install '.[tensorboard]' in the project's folder",
    "visdom": "make setup, or pip install '.[visdom]' in the project's folder",
    "scipy": "make setup, or pip install '.[compare]' in the project's folder",
}
"""How to get a package, by the name it is imported by."""


def parse_config(arguments: Sequence[str], kind: type[C], **options: Any) -> C:
    """The run that `arguments` describe: the flags that are given, over the preset's values for the rest.

    `kind` is `Config` or one with more flags. `options` are tyro's, such as `prog` and `description`.

    Raises `UserError` in one line where they make no sense, `SystemExit` after `--help`.
    """

    chosen, rest = parse(_Preset, arguments, return_unknown_args=True, add_help=False)
    resumes = chosen.resume is not None and "resume" in {field.name for field in fields(kind)}
    if {"-h", "--help"} & set(rest):  # which would print the text of another's config.json as it is
        resumes = False
    values = _begun(expand(chosen.resume)) if resumes else vars(PRESETS.get(chosen.preset, Config()))
    return cast(C, parse(kind, arguments, default=kind(**values), **options))


def _begun(folder: Path) -> dict[str, Any]:
    """The configuration of the run in `folder`. Raises `UserError` where there is none."""
    try:
        for path in folder.rglob("*"):
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{folder}: {path.relative_to(folder)} leads out of the folder")
        return vars(replace(read_config(folder), run_dir=folder, gpu=None))  # which GPU is for this machine to say
    except UserError as error:
        raise UserError(f"--resume {error}") from error
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise UserError(f"--resume {folder}: cannot be read ({error})") from error


@dataclass
class _Preset:
    preset: str = Config.preset
    resume: Path | None = None


def parse(kind: Any, arguments: Sequence[str], **options: Any) -> Any:
    """`tyro.cli`, its box of lines on standard error turned into the one line that matters.

    Raises `UserError` where it refuses the arguments, `SystemExit` after `--help`.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(kind, args=arguments, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("│ ").strip() for line in box.getvalue().splitlines()[1:]]
        end = next((i for i, line in enumerate(lines) if re.match(r"[─╰├]", line)), len(lines))
        raise UserError(f"{' '.join(lines[:end])} (--help lists the flags)") from None


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Ends the process with one line: status 2 for what the user can mend, 130 for Ctrl-C; without at a closed pipe."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # a stream that was closed before
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what the terminal's encoding lacks must not end the work
    try:
        yield
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in INSTALL:
            raise
        print(f"{program}: error: {package} is not installed: {INSTALL[package]}", file=sys.stderr)
        sys.exit(2)
    except UserError as error:
        print(f"{program}: error: {' '.join(str(error).split())}\n", end="", file=sys.stderr)  # at one go
        sys.exit(2)
    except BrokenPipeError:  # nobody reads any more, as behind `| head`
        _let_go_of_output()
        sys.exit(1)
    except OSError as error:
        _let_go_of_output()
        where = f"{error.filename}: " if error.filename else ""
        print(f"{program}: error: {one_line(f'{where}{error.strerror or error}')}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        with contextlib.suppress(OSError):  # nobody may read it any more
            print(f"{program}: {one_line(str(interrupt)) or 'interrupted'}", file=sys.stderr)
        sys.exit(128 + getattr(interrupt, "signal", signal.SIGINT))


def _let_go_of_output() -> None:
    """What is left in the buffer would fail again at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(frozen=True, kw_only=True)
class Training(Watching, Config):
    """What a trainer's command takes: a run, and how it is watched."""

    resume: Path | None = None
    """The folder of a run, of either trainer, that goes on from its newest checkpoint; needs no other flag. More
    --epochs can be given, another --device or number of --devices, and where the data are now."""
    checkpoint_every: int = CHECKPOINT_EVERY
    """Steps from one checkpoint to the next, at least; an epoch of fewer steps is not interrupted for one."""
    seeds: int | None = None
    """So many runs, with --seed and the seeds after it: a run folder each, and seeds.json. Not drawn on Visdom."""

    @property
    def config(self) -> Config:
        return part(Config, self)

    @property
    def watching(self) -> Watching:
        return part(Watching, self)

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        Watching.__post_init__(self)
        self._require("checkpoint_every", self.checkpoint_every >= 1, "at least 1")
        stays = self.resume is None or self.run_dir is None or self.run_dir.resolve() == expand(self.resume).resolve()
        if not stays:
            raise UserError(f"--run-dir {self.run_dir}: a run that is resumed stays in its folder")
        if self.seeds is not None and (self.resume is not None or self.checkpoint_every != CHECKPOINT_EVERY):
            raise UserError("--resume and --checkpoint-every are for one run, not for --seeds")
        if self.seeds is not None and self.devices > 1:
            raise UserError("--devices is for one run, not for --seeds, which trains a model on each core")


def run_trainer(program: str, description: str, kind: type[O], train: Callable[[O], object]) -> None:
    """A trainer's `main`: parses the process's arguments, a `kind`, and trains."""
    with one_line_errors(program):
        train(parse_config(sys.argv[1:], kind, prog=program, description=description))


def part(kind: type[T], options: Any) -> T:
    """Those fields of `options` that make up a `kind`."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})  # type: ignore[arg-type]
