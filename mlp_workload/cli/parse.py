"""From the command line to a `Config`, and from an error to one line."""

import contextlib
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from mlp_workload.errors import NO_THREADS, UserError, one_line

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
