"""The folder that a run leaves behind."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from mlp_workload.batches import steps_per_epoch
from mlp_workload.config import Config
from mlp_workload.errors import UserError, refusal
from mlp_workload.files import (
    LARGEST_JSON,
    clear_write_errors,
    is_half_written,
    lock_file,
    open_regular,
    read_at_most,
    read_json,
    remove_half_written,
    sync_folder,
    write_atomically,
)
from mlp_workload.weights import Parameters, save_weights

_ROOM, _LOCK = ".room-for-weights", ".lock"


class RunFolder(AbstractContextManager["RunFolder"]):
    """`config.json`, `events.jsonl`, `summary.json` and `weights.safetensors` of one run.

    While it is open, no other process can open it, except to read.
    """

    def __init__(self, path: Path, *, is_new: bool, lock: int | None) -> None:
        """Takes the `lock` that `_lock` returned."""
        self.path, self._is_new, self._lock = path, is_new, lock
        self._room, self.weights = path / _ROOM, path / "weights.safetensors"
        self.events, self.checkpoints = path / "events.jsonl", path / "checkpoints"

    @classmethod
    def claim(cls, path: Path, config: Config, restart: bool = False) -> "RunFolder":
        """Claims the folder for a run that starts, atomically: a second process that wants it is refused.

        With `restart` it replaces a run that ended before its first checkpoint. Raises `UserError` if there is anything
        else in the folder, or it can't be written to.
        """
        with contextlib.ExitStack() as unlock:
            lock = _lock_to_restart(path) if restart else None
            if lock is not None:
                unlock.callback(os.close, lock)
            elif not restart:
                make_empty_folder(path)
            with clear_write_errors(path):
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
            unlock.pop_all()
        return cls(path, is_new=True, lock=lock if restart else _lock(path))

    @classmethod
    def reopen(cls, path: Path, to_write: bool = True) -> "RunFolder":
        """Opens the folder of a run that has begun.

        Raises `UserError` if there is none or, if it is opened to write, another process has it open.
        """
        read_config(path)
        return cls(path, is_new=False, lock=_lock(path) if to_write else None)

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def finished_epochs(self, examples: int) -> int | None:
        """Returns the epochs of a finished run with so many training examples; None if it is not finished."""
        path = self.path / "summary.json"
        if not os.path.lexists(path):
            return None
        summary, config = read_json(path), read_config(self.path)
        steps = summary.get("steps") if isinstance(summary, dict) else None
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise UserError(f"{path} does not say its steps; without that file the run goes on from its checkpoint")
        return steps // steps_per_epoch(examples, config.batch_size)

    def summary(self) -> dict[str, Any]:
        return dict(read_json(self.path / "summary.json"))

    def go_on(self, config: Config) -> None:
        """`config` is what the run goes on by; it is not finished, or not any more."""
        with clear_write_errors(self.path):
            remove_half_written(self.path)
            write_atomically(self.path / "config.json", config.to_json().encode())
            (self.path / "summary.json").unlink(missing_ok=True)
            sync_folder(self.path)

    @contextlib.contextmanager
    def reserve(self, weights_bytes: int) -> Iterator[None]:
        """Reserves room on the disk for the weights, in case the disk fills up.

        Raises `UserError` if there is none, and then gives up a new folder.
        """
        with clear_write_errors(self._room):
            if os.path.lexists(self._room):  # of a run that was killed
                open_regular(self._room).close()
                self._room.unlink()
        try:
            with clear_write_errors(self.weights), self._room.open("xb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, weights_bytes + 2**16)  # with the file's header
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
        save_weights(self.weights, parameters)


def read_config(folder: Path) -> Config:
    """Reads the configuration of the run in `folder`. Raises `UserError` if there is none or it can't be read."""
    try:
        content = read_at_most(folder / "config.json", LARGEST_JSON)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise UserError(f"{folder}: {'no run there' if folder.is_dir() else 'no such run folder'}") from error
        raise
    try:
        return Config.from_json(content.decode())
    except (UserError, ValueError) as error:
        raise UserError(f"{folder}: config.json is damaged ({refusal(error)})") from error


def has_begun(folder: Path) -> bool:
    """Returns whether the run in `folder` has written a result or a checkpoint, whole or not.

    Raises `UserError` if the folder can't be read.
    """
    checkpoints = folder / "checkpoints"
    try:
        if any((folder / name).exists() for name in ("summary.json", "weights.safetensors")):
            return True
        return checkpoints.exists() and any(not is_half_written(path) for path in checkpoints.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _lock_to_restart(folder: Path) -> int | None:
    """Locks the folder and removes what a run left that ended before its first checkpoint.

    Raises `UserError`, with nothing removed, if another process is at the run, or anything else is in the folder. A
    file of a run's name counts as the run's only if its content does.
    """
    with clear_write_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--resume-or-start {folder} is not a folder")
        folder.mkdir(parents=True, exist_ok=True)
        begins_with = {"config.json", "events.jsonl", "checkpoints", "tensorboard", _ROOM, _LOCK}
        others = sorted({path.name for path in folder.iterdir() if not is_half_written(path)} - begins_with)
        if others and not has_begun(folder):
            raise UserError(f"--resume-or-start {folder} holds no run, but {', '.join(others[:3])}")
        lock = _lock(folder)
        try:
            if has_begun(folder):
                raise UserError(f"{folder}: another process began this run; the same command resumes it")
            _remove_beginning(folder)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
    return lock


def _remove_beginning(folder: Path) -> None:
    """Removes what a run writes before its first checkpoint.

    Raises `UserError`, with nothing removed, if a file is not such a run's, or there are losses.
    """
    paths = (folder / "config.json", folder / "events.jsonl")
    config, events = (read_at_most(path, LARGEST_JSON) if os.path.lexists(path) else b"" for path in paths)
    is_whole = False
    with contextlib.suppress(UserError, ValueError):
        is_whole = bool(Config.from_json(config.decode()))
    understood = {
        "config.json": is_whole or (_is_beginning(config, b'{\n  "preset": "') and b"\n}" not in config),
        "events.jsonl": _is_beginning(events, b'{"event": "run_started", '),
        "tensorboard": is_whole or not any((folder / "tensorboard").glob("*")),
    }
    if others := [name for name, is_ours in understood.items() if not is_ours]:
        raise UserError(f"--resume-or-start {folder} holds no run, but {others[0]}; move it away to begin a run there")
    if b'{"event": "train_losses", ' in events:
        raise UserError(f"{folder}: a run without a checkpoint; move its events.jsonl away to begin a new one there")
    for place in (folder / "checkpoints", folder):
        remove_half_written(place)
    if (folder / "checkpoints").exists():
        (folder / "checkpoints").rmdir()
    names = (_ROOM, "events.jsonl", "config.json")  # the configuration last: what is left without it is not understood
    for path in (*(folder / "tensorboard").glob("events.out.tfevents.*"), *map(folder.joinpath, names)):
        path.unlink(missing_ok=True)


def _is_beginning(content: bytes, start: bytes) -> bool:
    """Returns whether `content` begins with `start`, or is cut off within it."""
    return content.startswith(start) or start.startswith(content)


def _lock(folder: Path) -> int | None:
    """Locks the run until the process ends; returns the lock's descriptor.

    The lock is on the folder or, on NFS and Windows, which can't lock folders, on the file `.lock` in it. Returns None
    on a file system without locks; two processes may then open one run. Raises `UserError` if the lock is held.
    """
    for path, flags in ((folder, os.O_RDONLY), (folder / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0))):
        try:
            descriptor = os.open(path, flags)
        except OSError:
            continue
        try:
            lock_file(descriptor)
            return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{folder}: another process is at this run") from None
        except OSError:
            os.close(descriptor)
    return None


def make_empty_folder(path: Path) -> None:
    """Makes the folder. Raises `UserError` if it is not empty or can't be made."""
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
    """Makes `runs/2026-01-31T12-00-00-jax-leaky-seed0`, or that with a number if it is taken; atomically.

    `seeds` is the last part of the name.
    """
    name = f"{datetime.now():%Y-%m-%dT%H-%M-%S}-{framework}-{config.preset}-{seeds}"
    path, again = Path("runs", name), 1
    with clear_write_errors(path):
        path.parent.mkdir(exist_ok=True)
        while True:
            try:
                path.mkdir()
                return path
            except FileExistsError:
                again += 1
                path = Path("runs", f"{name}-{again}")
