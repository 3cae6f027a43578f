"""Checks a PyTorch model against a JAX model: `python -m twincheck --help`."""

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console

from mlp_workload.cli.parse import Positional, clear_import_errors, run_command
from mlp_workload.environment.compile_cache import keep_compiled_programs
from mlp_workload.errors import UserError, one_line
from mlp_workload.files import expand

if TYPE_CHECKING:
    from twincheck.report import Report

PROGRAM = "python -m twincheck"
_FILE = "_twincheck_file"
"""Name of the module of a file, which may be called like a module that is loaded."""
_EXPECTED = "return twincheck.torch(...), twincheck.nnx(...), or a twincheck.pair(...)"


@dataclass(frozen=True, kw_only=True)
class Twincheck:
    """Checks a PyTorch model against a JAX model, forward and backward, and says where and why they differ.

    The function returns the two sides, twincheck.torch(model, inputs) and the JAX one such as twincheck.nnx(model,
    inputs), or a twincheck.pair. The exit status is 0 if the models are the same, 1 if not, and 2 for bad input.
    """

    function: Annotated[str, Positional("FILE_OR_MODULE:FUNCTION")]
    """Function without arguments, such as port.py:sides or package.module:sides."""
    html: Path | None = None
    """Writes the report to this file, as a page."""
    json: Path | None = None
    """Writes the report to this file, with every place that was compared."""


def main() -> None:
    keep_compiled_programs()
    run_command(PROGRAM, Twincheck, run)


def run(options: Twincheck) -> bool:
    import twincheck.page
    import twincheck.pairs  # noqa: F401, `main` reports a missing jinja2 or scipy

    for flag, path in (("--html", options.html), ("--json", options.json)):
        if path is not None and not expand(path).parent.is_dir():  # said before the work
            raise UserError(f"{flag} {path}: there is no such folder")
    report = _check(options.function)
    Console(highlight=False).print(report, soft_wrap=True)
    if options.html is not None:
        report.html(options.html)
    if options.json is not None:
        report.json(options.json)
    return report.same


def _check(name: str) -> "Report":
    from twincheck.pairs import Pair

    with _clear_errors(name), clear_import_errors(), Console(stderr=True).status("importing") as status:
        found = _function(name)()
        sides = (found.torch, found.jax) if isinstance(found, Pair) else found
        if not isinstance(sides, tuple) or [_is_torch(side) for side in sides] != [True, False]:
            raise UserError(f"{name} returned {one_line(repr(found))[:200]}: {_EXPECTED}")
        for side in sides:
            side.run = _shown(side.run, side.framework, status.update)
        pair = found if isinstance(found, Pair) else Pair(*sides)
        report: Report = pair.check()
        return report


def _is_torch(side: Any) -> bool | None:
    """Tells of which framework a side is; returns None if it is no side."""
    framework = getattr(side, "framework", None)
    return framework == "torch" if callable(getattr(side, "run", None)) and framework else None


def _shown(run: Callable[..., Any], framework: str, show: Callable[[str], None]) -> Callable[..., Any]:
    """Returns `run` of a side such that it shows which pass is running."""

    @wraps(run)
    def shown(dtype: str, force: Any = None, cotangents: Any = None) -> Any:
        direction = "forward" if cotangents is None else "forward and backward"
        show(f"{framework}, {direction} in {dtype}")
        return run(dtype, force, cotangents)

    return shown


def _function(name: str) -> Callable[[], Any]:
    """Returns the function that FILE_OR_MODULE:FUNCTION names."""
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise UserError(f"{name}: name a function, such as port.py:sides or package.module:sides")
    module = _import_file(place) if place.endswith(".py") or "/" in place else _import_module(place)
    function: Callable[[], Any] | None = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f"{place} has no function {attribute}")
    return function


def _import_file(name: str) -> ModuleType:
    path = expand(Path(name)).absolute()
    if not path.is_file():
        raise UserError(f"{name}: no such file")
    spec = importlib.util.spec_from_file_location(_FILE, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{name}: not a Python file")
    sys.path.insert(0, str(path.parent))  # as `python FILE` does
    module = importlib.util.module_from_spec(spec)
    sys.modules[_FILE] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"there is no module {name}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"there is no module {name}") from error
        raise


@contextlib.contextmanager
def _clear_errors(name: str) -> Iterator[None]:
    """Turns an error of the user's code into one line that says where it was raised."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}{_where(error.__cause__)}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: {type(error).__name__}: {error}{_where(error)}") from error


def _where(error: BaseException | None) -> str:
    """Returns the line of the user's code in which an error was raised, in brackets; "" if in none."""
    here, packages = str(Path(__file__).parent), ("site-packages", "<frozen", "importlib")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__ if error else None)
        if not frame.filename.startswith(here) and not any(part in frame.filename for part in packages)
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""


if __name__ == "__main__":
    main()
