"""From arguments to a command's dataclass, and from an error to one line.

This uses argparse because its public interface has groups, hidden flags and errors as text.
"""

import argparse
import ast
import contextlib
import inspect
import io
import itertools
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from mlp_workload.errors import NO_THREADS, UserError, one_line

T = TypeVar("T")

_EXTRAS = {
    "torch": "torch", "jinja2": "compare", "PIL": "predict", "matplotlib": "compare", "onnx": "export",
    "tensorboardX": "tensorboard", "visdom": "visdom", "scipy": "compare",
}  # fmt: skip
INSTALL = (
    dict.fromkeys(("jax", "flax", "optax"), "make setup, or pip install . in the project's folder")
    | {name: f"make setup, or pip install '.[{extra}]' in the project's folder" for name, extra in _EXTRAS.items()}
    | dict.fromkeys(("equinox", "haiku"), "pip install '.[ports]' in the project's folder")
)
"""How to get a package, by the name it is imported by."""


class Metavar(str):
    """Name of a flag's value in --help, as metadata of an `Annotated` field."""


class Positional(Metavar):
    """Name of an argument that has no flag."""


def parse(arguments: Sequence[str], kind: type[T], **options: Any) -> T:
    """Returns the `kind` that `arguments` describe. `options` and errors are those of `given_flags`."""
    return build(kind, given_flags(arguments, kind, **options))


def run_command(
    program: str, kind: type[T], run: Callable[[T], bool | None], parse: Callable[..., T] = parse, **options: Any
) -> None:
    """Runs a command on the process's arguments; see `one_line_errors`.

    If `run` returns whether all is well, the process ends with status 0 or 1. `options` are those of `given_flags`.
    """
    with one_line_errors(program):
        passed = run(parse(sys.argv[1:], kind, prog=program, **options))
    if passed is not None:
        sys.exit(0 if passed else 1)


def given_flags(
    arguments: Sequence[str],
    kind: type,
    *,
    prog: str | None = None,
    description: str | None = None,
    groups: Mapping[str, Collection[str]] | None = None,
    without: Collection[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the values that `arguments` give, by field of the dataclass `kind` and of those nested in it.

    Each field is a flag, and its docstring is the text in --help. `groups` has the fields of each group in --help.
    Fields in `without` have no flag. `aliases` has the new flag for each old one; --help does not show the old one.

    Raises `UserError` if the arguments make no sense, `SystemExit` after --help.
    """
    about, _, details = (description or inspect.getdoc(kind) or "").partition("\n\n")
    usage = "%(prog)s [options]"
    parser = _Parser(prog, usage, about, details, allow_abbrev=False, add_help=False)
    parser.add_argument("-h", "--help", action="help", help="Shows this text.")
    sections: dict[str, Any] = {}
    for title, names in (groups or {}).items():
        sections |= dict.fromkeys(names, parser.add_argument_group(title))
    docs = _docs(kind) if {"-h", "--help"} & {*arguments} else {}  # reads source files
    for field, hint in option_fields(kind):
        if field.name in without:
            continue
        section = sections.get(field.name, parser)
        settings = _settings(field, hint) | {"default": argparse.SUPPRESS, "help": _help(field, docs)}
        if is_positional(hint):
            parser.usage = None  # argparse draws it, with these
            section.add_argument(field.name, **settings)
            continue
        flag = f"--{field.name.replace('_', '-')}"
        section.add_argument(flag, **settings)
        for old in [old for old, new in (aliases or {}).items() if new == flag]:
            parser.add_argument(old, dest=field.name, **settings | {"help": argparse.SUPPRESS})
    hyphenated = [re.sub("^--[^=]+", lambda flag: flag[0].replace("_", "-"), word) for word in arguments]
    given = vars(parser.parse_intermixed_args(hyphenated))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """Returns a `kind` with those of its fields, and of the dataclasses nested in it, that `values` has."""
    hints = get_type_hints(kind)
    nested = {
        name: build(hint, values) for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
    }
    return kind(**nested, **{name: values[name] for name in hints.keys() & values.keys()})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')} (--help lists the flags)")


def option_fields(kind: Any) -> Iterator[tuple[Field[Any], Any]]:
    """Yields the fields that are no dataclasses, with their types."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            yield from option_fields(hints[field.name])
        else:
            yield field, hints[field.name]


def _settings(field: Field[Any], hint: Any) -> dict[str, Any]:
    """Returns how argparse reads a `field` of the type `hint`."""
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        return _settings(field, inner[0]) | {"metavar": str(inner[1])}
    if NoneType in inner:
        return _settings(field, inner[0])
    if get_origin(hint) is Literal:
        return {"choices": inner}
    if get_origin(hint) is tuple:
        any_number = "+" if field.default is MISSING else "*"
        return _settings(field, inner[0]) | {"nargs": any_number if inner[-1] is ... else len(inner)}
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    metavar = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}[hint]
    return {"type": _path if hint is Path else hint, "metavar": metavar}


def is_positional(hint: Any) -> bool:
    return get_origin(hint) is Annotated and isinstance(get_args(hint)[1], Positional)


def _path(word: str) -> Path:
    if not word:  # `Path` takes it for the current folder
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(word)


def _docs(kind: Any) -> dict[str, str]:
    """Returns the docstrings of all fields, nested ones too, from the source: Python does not keep them."""
    docs = {}
    for base in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for pair in itertools.pairwise(tree.body):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    for hint in get_type_hints(kind).values():
        if is_dataclass(hint):
            docs |= _docs(hint)
    return docs


def _help(field: Field[Any], docs: Mapping[str, str]) -> str:
    text, default = docs.get(field.name, "").replace("%", "%%"), field.default
    if default in (MISSING, None, ()):
        return text
    match default:
        case bool():
            default = "on" if default else "off"
        case tuple():
            default = " ".join(map(str, default))
    return f"{text} (default: {default})"


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Ends the process with one line: status 2 for what the user can fix, 130 for Ctrl-C; without at a closed pipe."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # a stream that was closed before
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what the terminal's encoding lacks must not end the work

    def fail(message: str) -> NoReturn:
        print(f"{program}: error: {message}\n", end="", file=sys.stderr)  # at one go
        sys.exit(2)

    try:
        with clear_import_errors():
            yield
        sys.stdout.flush()
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        fail(NO_THREADS)
    except UserError as error:
        fail(" ".join(str(error).split()))
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the buffer's rest would fail again at the end
        if isinstance(error, BrokenPipeError):  # nobody reads any more, as behind `| head`
            sys.exit(1)
        where = f"{error.filename}: " if error.filename else ""
        fail(one_line(f"{where}{error.strerror or error}"))
    except KeyboardInterrupt as interrupt:
        with contextlib.suppress(OSError):  # nobody may read it any more
            print(f"{program}: {one_line(str(interrupt)) or 'interrupted'}", file=sys.stderr)
        sys.exit(128 + getattr(interrupt, "signal", signal.SIGINT))


@contextlib.contextmanager
def clear_import_errors() -> Iterator[None]:
    """Raises `UserError` that says how to get a package, if one that is in `INSTALL` is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in INSTALL:
            raise
        raise UserError(f"{package} is not installed: {INSTALL[package]}") from error
