"""The folder that a run leaves behind."""

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mlp_workload import strict_json
from mlp_workload.config import Config
from mlp_workload.errors import UserError
from mlp_workload.files import write_atomically
from mlp_workload.weights import Parameters, save_weights


class FolderTaken(UserError):
    """Another run has it, or other files are in it."""


class RunFolder:
    """`config.json`, `events.jsonl`, `summary.json` and `weights.safetensors` of one run.

    Creating one claims the folder, atomically: of two processes that want the same, the second is refused.
    Raises `FolderTaken` where the folder is not empty, `UserError` where it can't be written to.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
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
                raise FolderTaken(f"--run-dir {path} {holds}; name a new or empty folder")
            try:
                claim = (path / "config.json").open("x", encoding="utf-8")
            except FileExistsError:
                raise FolderTaken(f"--run-dir {path} is in use by another run; name a new or empty folder") from None
        try:
            with clear_write_errors(path / "config.json"), claim:
                claim.write(config.to_json())
        except UserError:
            (path / "config.json").unlink()
            raise

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    def save(self, summary: Mapping[str, Any], parameters: Parameters) -> None:
        """Writes the weights, then the summary: where there is a summary, the run is complete."""
        weights, summary_json = self.path / "weights.safetensors", self.path / "summary.json"
        with clear_write_errors(weights):
            save_weights(weights, parameters)
        with clear_write_errors(summary_json):
            write_atomically(summary_json, (strict_json.dumps(summary, indent=2) + "\n").encode())


def claim_default(config: Config, framework: str) -> RunFolder:
    """`runs/2026-01-31T12-00-00-jax-leaky-seed0`, with a number behind where that is taken."""
    name = f"{datetime.now():%Y-%m-%dT%H-%M-%S}-{framework}-{config.preset}-seed{config.seed}"
    path, again = Path("runs", name), 1
    while True:
        try:
            return RunFolder(path, config)
        except FolderTaken:
            again += 1
            path = Path("runs", f"{name}-{again}")


@contextlib.contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, a missing permission and their like into a `UserError` that names what was being written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
