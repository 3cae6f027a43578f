"""Trains the MLP in JAX: `python -m jax_mlp.train --help`."""

from typing import Any

from mlp_workload import training
from mlp_workload.command_line import run_trainer
from mlp_workload.config import Config
from mlp_workload.watching import Watching


def train(config: Config, watching: Watching | None = None) -> dict[str, Any]:
    """Trains as `config` says and returns the summary; see `mlp_workload.training.train`."""
    import jax  # only now: a wrong flag is answered before JAX is loaded

    from jax_mlp.trainer import Trainer

    with jax.enable_x64(config.dtype == "float64"):
        return training.train(config, Trainer, watching or Watching())


def main() -> None:
    run_trainer("python -m jax_mlp.train", "Trains the MLP in JAX, Flax and optax.", train)


if __name__ == "__main__":
    main()
