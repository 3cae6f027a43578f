"""Places that a command is told to write to, claimed before it begins to work."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mlp_workload.errors import UserError
from mlp_workload.files import expand
from mlp_workload.run_folder import clear_write_errors


@contextlib.contextmanager
def new_file(flag: str, path: Path | None) -> Iterator[Path | None]:
    """Claims `path`, expanded, before any work, so that nothing is overwritten; leaves none where the work fails."""
    if path is None:
        yield None
        return
    path = expand(path)
    try:
        with clear_write_errors(path):
            path.open("x").close()
    except UserError as error:
        if isinstance(error.__cause__, FileExistsError):
            raise UserError(f"{flag} {path} exists; name a new file") from None
        raise
    try:
        yield path
    except BaseException:
        if path.stat().st_size == 0:
            path.unlink()
        raise


def empty_folder(flag: str, path: Path | None) -> Path | None:
    """`path`, expanded: a folder that is empty or yet to be made. Raises `UserError` where there is something."""
    if path is None:
        return None
    path = expand(path)
    with clear_write_errors(path):
        if path.exists() and not path.is_dir():
            raise UserError(f"{flag} {path} is not a folder")
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{flag} {path} is not empty; name a new or empty folder")
    return path
