"""From the command line to a `Config`, and from an error to one line."""

import contextlib
import io
import itertools
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
from mlp_workload.errors import NO_THREADS, UserError, one_line
from mlp_workload.files import expand
from mlp_workload.keeper import CHECKPOINT_EVERY, Resume
from mlp_workload.run_folder import has_begun, read_config
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


def parse(kind: Any, arguments: Sequence[str], **options: Any) -> Any:
    """`tyro.cli`, its box of lines on standard error turned into the one line that matters.

    Raises `UserError` where it refuses the arguments, `SystemExit` after `--help`.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(kind, args=arguments, registry=_PATHS, **options)
    except _EmptyPath:
        words = [word for argument in arguments for word in argument.split("=", 1)]
        before = words[max(words.index("") - 1, 0)]
        where = before if before.startswith("--") else "a path"
        raise UserError(f"{where} is empty (--help lists the flags)") from None
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("│ ").strip() for line in box.getvalue().splitlines()[1:]]
        is_rule = re.compile("[─╰├]|-{9}").match  # a box of ASCII has another one below its title
        lines = list(itertools.dropwhile(is_rule, lines))
        raise UserError(
            f"{' '.join(itertools.takewhile(lambda line: not is_rule(line), lines))} (--help lists the flags)"
        ) from None


class _EmptyPath(Exception):
    """An argument is an empty path, which `Path` would take for the current folder."""


def _path(words: list[str]) -> Path:
    if not words[0]:
        raise _EmptyPath
    return Path(words[0])


_PATHS = tyro.constructors.ConstructorRegistry()


@_PATHS.primitive_rule
def _path_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    """Reads a path as tyro does, and raises `_EmptyPath` for an empty one."""
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=_path,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


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
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        print(f"{program}: error: {NO_THREADS}", file=sys.stderr)
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
