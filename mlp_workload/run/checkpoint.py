"""Checkpoints: files from which either framework continues a run as if it had never stopped."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from mlp_workload.errors import UserError, refusal, warn
from mlp_workload.files import clear_write_errors, read_safetensors, remove_half_written, sync_folder, write_atomically
from mlp_workload.weights import Parameters, check, is_parameter

FORMAT = 1
KEPT = 2
"""Checkpoints that are kept: the newest, and one more in case it is damaged."""
_LOSSES = "losses"
_NAME = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after `step` steps, which are `offset` steps into `epoch`, counted from 1.

    At the end of an epoch it is in the next one, at offset 0. `losses` (offset,) are those of this epoch so far, which
    took `seconds`. `state` is that of a trainer, `config` the run's configuration as JSON.
    """

    config: Mapping[str, Any]
    dataset_digest: str
    framework: str
    step: int
    epoch: int
    offset: int
    seconds: float
    losses: npt.NDArray[np.floating[Any]]
    state: Parameters

    @property
    def parameters(self) -> Parameters:
        return {name: array for name, array in self.state.items() if is_parameter(name)}

    def check(self, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
        """Raises `UserError`, naming the tensor, if the state has other names, shapes or types, or is not finite."""
        check(self.state, shapes, f"the checkpoint of step {self.step}")
        for name, array in self.state.items():
            if array.dtype != dtype:
                raise UserError(f"the checkpoint of step {self.step}: {name} is {array.dtype}, expected {dtype}")

    @property
    def is_finite(self) -> bool:
        return all(bool(np.isfinite(array).all()) for array in self.state.values())


class NewerFormat(UserError):
    """The checkpoint was written by a newer version than this one."""


class NoCheckpoint(UserError):
    """There is no checkpoint to continue from."""


class Checkpoints:
    """The newest checkpoints of a run, in one folder: safetensors files with a description and a digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes it, whole or not at all, then removes those that are older than the one before.

        Raises `UserError` where it can't be written; those that were there are untouched then.
        """
        about = {name: getattr(checkpoint, name) for name in _ABOUT} | {"format": FORMAT}
        tensors = {name: np.asarray(array, order="C") for name, array in checkpoint.state.items()}  # keeps a scalar one
        tensors[_LOSSES] = checkpoint.losses
        text = json.dumps(about)
        path = self._folder / f"step-{checkpoint.step:08d}.safetensors"
        with clear_write_errors(path):
            if not self._folder.is_dir():
                self._folder.mkdir()
                sync_folder(self._folder.parent)
            write_atomically(path, save(tensors, {"checkpoint": text, "digest": _digest(text, tensors)}))
            for old in [path for path in self._by_step().values() if path.is_file()][KEPT:]:
                old.unlink()

    def newest(self) -> Checkpoint:
        """Returns the newest checkpoint that is whole; warns of newer ones that are damaged.

        Raises `NoCheckpoint` if there is none, `UserError` if one is of a newer format, or could not be read, in which
        case it may be whole.
        """
        damaged: list[str] = []
        for path in self._by_step().values():
            try:
                found = load(path)
                for said in damaged:
                    warn(f"{said}; going on from step {found.step}")
                return found
            except NewerFormat:
                raise
            except UserError as error:
                if isinstance(error.__cause__, OSError | MemoryError):
                    cure = "Make it readable, or move it away to go on from the one before"
                    raise UserError(f"{error}; this checkpoint is neither skipped nor removed. {cure}") from error
                damaged.append(str(error))
        raise NoCheckpoint("; ".join(damaged) or "it has no checkpoint")

    def _by_step(self) -> dict[int, Path]:
        """Returns paths of checkpoints, newest first, without copies. Raises `UserError` if that can't be read."""
        try:
            steps = {int(found[1]): path for path in self._folder.iterdir() if (found := _NAME.fullmatch(path.name))}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(f"{self._folder} cannot be read ({error.strerror})") from None
        return dict(sorted(steps.items(), reverse=True))

    def set_aside_after(self, step: int) -> None:
        """Renames the damaged ones of steps behind `step` to *.damaged, and removes what was half written."""
        with clear_write_errors(self._folder):
            for of, path in self._by_step().items():
                if of > step:
                    path.replace(path.with_name(f"{path.name}.damaged"))
            remove_half_written(self._folder)


_ABOUT: Mapping[str, tuple[type, ...]] = {
    "config": (dict,),
    **dict.fromkeys(("dataset_digest", "framework"), (str,)),
    **dict.fromkeys(("step", "epoch", "offset"), (int,)),
    "seconds": (int, float),
}


def load(path: Path) -> Checkpoint:
    """Loads a checkpoint. Raises `UserError`, naming the file, if it is not whole, and `NewerFormat` if it is newer."""
    tensors, metadata = read_safetensors(path, "checkpoint")
    text = metadata.get("checkpoint", "")
    try:
        about = json.loads(text)
        if metadata.get("digest") != _digest(text, tensors):
            raise UserError(f"{path}: damaged, its content is not what was written")
        if about["format"] > FORMAT:
            raise NewerFormat(f"{path} has format {about['format']}, this version reads up to {FORMAT}")
        fields = {name: about[name] for name in _ABOUT}
        sound = all(type(value) in _ABOUT[name] for name, value in fields.items()) and (
            fields["step"] >= fields["offset"] >= 0 < fields["epoch"] and math.isfinite(fields["seconds"])
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not a checkpoint ({refusal(error)})") from error
    if not sound:
        raise UserError(f"{path}: not a checkpoint, what it says of itself makes no sense")
    losses, shape = tensors.pop(_LOSSES, np.empty(0)), (fields["offset"],)
    if losses.dtype.kind != "f" or losses.shape != shape:
        raise UserError(f"{path}: {_LOSSES} is {losses.dtype} {losses.shape}, expected floating {shape}")
    return Checkpoint(**fields, losses=losses, state=tensors)


def _digest(about: str, tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """Returns the SHA-256 of the description and of all tensors, in the order of their names."""
    digest = hashlib.sha256(about.encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
