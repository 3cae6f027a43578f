"""Trains the MLP in PyTorch: `python -m reference_torch.train --help`."""

from typing import Any

from mlp_workload import training
from mlp_workload.command_line import run_trainer
from mlp_workload.config import Config
from mlp_workload.watching import Watching


def train(config: Config, watching: Watching | None = None) -> dict[str, Any]:
    """Trains as `config` says and returns the summary; see `mlp_workload.training.train`."""
    from reference_torch.trainer import Trainer  # only now: a wrong flag is answered before torch is loaded

    return training.train(config, Trainer, watching or Watching())


def main() -> None:
    run_trainer("python -m reference_torch.train", "Trains the MLP in PyTorch.", train)


if __name__ == "__main__":
    main()
