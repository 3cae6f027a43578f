"""The folder that a run leaves behind."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from mlp_workload import strict_json
from mlp_workload.config import Config
from mlp_workload.errors import UserError, refusal
from mlp_workload.files import remove_half_written, sync_folder, write_atomically
from mlp_workload.order import steps_per_epoch
from mlp_workload.weights import Parameters, save_weights

_HEADER_BYTES = 2**16
"""More than what stands in a safetensors file besides the numbers."""


class RunFolder:
    """`config.json`, `events.jsonl`, `summary.json` and `weights.safetensors` of one run.

    While it is open no other process can take it up, unless it is only read.
    """

    def __init__(self, path: Path, *, is_new: bool, to_write: bool = True) -> None:
        self.path, self._is_new = path, is_new
        self._room = path / ".room-for-weights"
        self._lock = _lock(path) if to_write else None

    @classmethod
    def claim(cls, path: Path, config: Config) -> "RunFolder":
        """For a run that begins, atomically: of two processes that want the same, the second is refused.

        Raises `UserError` where the folder is not empty, or can't be written to.
        """
        with clear_write_errors(path):
            make_empty_folder(path)
            try:
                claim = (path / "config.json").open("x", encoding="utf-8")
            except FileExistsError:
                raise UserError(f"--run-dir {path} is in use by another run; name a new or empty folder") from None
        try:
            with clear_write_errors(path / "config.json"), claim:
                claim.write(config.to_json())
                claim.flush()
                os.fsync(claim.fileno())
                sync_folder(path)
                sync_folder(path.parent)
        except UserError:
            (path / "config.json").unlink()
            raise
        return cls(path, is_new=True)

    @classmethod
    def reopen(cls, path: Path, to_write: bool = True) -> "RunFolder":
        """Of a run that has begun. Raises `UserError` where there is none, or, to be written, a process is at it."""
        read_config(path)
        return cls(path, is_new=False, to_write=to_write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Others may take it up now."""
        if self._lock is not None:
            os.close(self._lock)

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def finished_epochs(self, examples: int) -> int | None:
        """Of the run, whose training set has so many `examples`, where it is finished."""
        path = self.path / "summary.json"
        if not path.exists():
            return None
        summary, config = read_json(path), read_config(self.path)
        steps = summary.get("steps") if isinstance(summary, dict) else None
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise UserError(f"{path} does not say its steps; without that file the run goes on from its checkpoint")
        return steps // steps_per_epoch(examples, config.batch_size)

    def go_on(self, config: Config) -> None:
        """`config` is what the run goes on by; it is not finished, or not any more."""
        with clear_write_errors(self.path):
            remove_half_written(self.path)
            write_atomically(self.path / "config.json", config.to_json().encode())
            (self.path / "summary.json").unlink(missing_ok=True)
            sync_folder(self.path)

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @contextlib.contextmanager
    def reserve(self, weights_bytes: int) -> Iterator[None]:
        """Keeps room on the disk for the weights, so that a disk that fills up can't cost them.

        Raises `UserError` where there is none, and gives a new folder up.
        """
        try:
            with clear_write_errors(self.weights), self._room.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, weights_bytes + _HEADER_BYTES)
        except UserError:
            with contextlib.suppress(OSError):  # a folder that nobody may write to
                self._room.unlink(missing_ok=True)
            if self._is_new:
                (self.path / "config.json").unlink()
            raise
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._room.unlink(missing_ok=True)

    def save_weights(self, parameters: Parameters) -> None:
        self._room.unlink(missing_ok=True)
        with clear_write_errors(self.weights):
            save_weights(self.weights, parameters)

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Comes last: where there is a summary, the run is complete."""
        write_json(self.path / "summary.json", summary)


def read_config(folder: Path) -> Config:
    """Of the run in `folder`. Raises `UserError` where there is none, or its config.json can't be read."""
    path = folder / "config.json"
    try:
        if not path.is_file():
            raise UserError(f"{folder}: {'no run there' if folder.is_dir() else 'no such run folder'}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # not UTF-8, or a zero byte in the path
        raise UserError(f"{folder}: config.json is damaged ({refusal(error)})") from error
    try:
        return Config.from_json(text)
    except UserError as error:
        raise UserError(f"{folder}: config.json is damaged ({error})") from error


def _lock(folder: Path) -> int | None:
    """A lock on the folder itself, which ends with the process; its descriptor. Raises `UserError` where it is held.

    None on Windows and on file systems without locks, where two processes at one run are not kept apart.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"{folder}: another process is at this run") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def make_empty_folder(path: Path) -> None:
    """Raises `UserError` where there is something in it, or there can be no folder."""
    with clear_write_errors(path):
        if path.exists() and not path.is_dir():
            raise UserError(f"--run-dir {path} is not a folder")
        path.mkdir(parents=True, exist_ok=True)
        if names := sorted(entry.name for entry in path.iterdir()):
            if "summary.json" in names:
                holds = "already holds a run"
            elif "config.json" in names:
                holds = "holds a run that is not finished"
            else:
                holds = f"is not empty ({', '.join(names[:3])})"
            raise UserError(f"--run-dir {path} {holds}; name a new or empty folder")


def new_default_folder(framework: str, config: Config, seeds: str) -> Path:
    """Makes `runs/2026-01-31T12-00-00-jax-leaky-seed0`, or that with a number behind where it is taken; atomically.

    `seeds` is the last part of the name.
    """
    name = f"{datetime.now():%Y-%m-%dT%H-%M-%S}-{framework}-{config.preset}-{seeds}"
    path, again = Path("runs", name), 1
    while True:
        with clear_write_errors(path):
            path.parent.mkdir(exist_ok=True)
            try:
                path.mkdir()
                return path
            except FileExistsError:
                again += 1
                path = Path("runs", f"{name}-{again}")


def write_json(path: Path, content: Any) -> None:
    """Writes `content` for people and programs, whole or not at all. Raises `UserError` where it can't."""
    with clear_write_errors(path):
        write_atomically(path, (strict_json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """What `write_json`, or another program, wrote. Raises `UserError` where it can't be read or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {refusal(error)}") from error


@contextlib.contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, a missing permission and their like into a `UserError` that names what was being written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
