"""From the command line to a `Config`, and from an error to one line."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import tyro

from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import UserError

C = TypeVar("C", bound=Config)

_INSTALL = {
    "torch": "make setup, or pip install '.[torch]' in the project's folder",
    "jax": "make setup, or pip install . in the project's folder",
    "flax": "make setup, or pip install . in the project's folder",
    "optax": "make setup, or pip install . in the project's folder",
    "matplotlib": "make setup, or pip install '.[compare]' in the project's folder",
    "scipy": "make setup, or pip install '.[compare]' in the project's folder",
}


def parse_config(arguments: Sequence[str], kind: type[C], **options: Any) -> C:
    """The run that `arguments` describe: the flags that are given, over the preset's values for the rest.

    `kind` is `Config` or one with more flags. `options` are tyro's, such as `prog` and `description`.

    Raises `UserError` in one line where they make no sense, `SystemExit` after `--help`.
    """

    chosen, _ = parse(_Preset, arguments, return_unknown_args=True, add_help=False)
    default = kind(**vars(PRESETS.get(chosen.preset, Config())))
    return cast(C, parse(kind, arguments, default=default, **options))


@dataclass
class _Preset:
    preset: str = Config.preset


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
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _INSTALL:
            raise
        print(f"{program}: error: {error.name} is not installed: {_INSTALL[error.name]}", file=sys.stderr)
        sys.exit(2)
    except UserError as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # nobody reads any more, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)


def run_trainer(program: str, description: str, train: Callable[[Config], object]) -> None:
    """A trainer's `main`: parses the process's arguments and trains."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a path that the terminal's encoding lacks must not end the run
    with one_line_errors(program):
        train(parse_config(sys.argv[1:], Config, prog=program, description=description))
