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


class RunFolder:
    """`config.json`, `events.jsonl`, `summary.json` and `weights.safetensors` of one run.

    Creating one claims the folder, atomically: of two processes that want the same, the second is refused.
    Raises `UserError` where the folder is not empty or can't be written to.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        with clear_write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            if names := sorted(entry.name for entry in path.iterdir()):
                holds = "already holds a run" if "config.json" in names else f"is not empty ({', '.join(names[:3])})"
                raise UserError(f"--run-dir {path} {holds}; name a new or empty folder")
            try:
                claim = (path / "config.json").open("x", encoding="utf-8")
            except FileExistsError:
                raise UserError(f"--run-dir {path} is in use by another run; name a new or empty folder") from None
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


def default_path(config: Config, framework: str) -> Path:
    """`runs/2026-01-31T12-00-00-jax-leaky-seed0`, with a number behind where that is taken."""
    name = f"{datetime.now():%Y-%m-%dT%H-%M-%S}-{framework}-{config.preset}-seed{config.seed}"
    path, again = Path("runs", name), 2
    while path.exists():
        path, again = Path("runs", f"{name}-{again}"), again + 1
    return path


@contextlib.contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, a missing permission and their like into a `UserError` that names what was being written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
