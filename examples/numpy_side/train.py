"""Trains the MLP in NumPy: `python -m examples.numpy_side.train --dtype float64`."""

import contextlib
from collections.abc import Iterator

import numpy as np

from examples.numpy_side.trainer import Trainer
from mlp_workload.cli.parse import run_command
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import Config
from mlp_workload.errors import UserError
from mlp_workload.interface import MakeTrainer
from mlp_workload.run.session import Run


@contextlib.contextmanager
def framework(config: Config) -> Iterator[MakeTrainer]:
    """See `mlp_workload.interface.Framework`. A run that diverges says so itself, NumPy need not."""
    with np.errstate(over="ignore", invalid="ignore"):
        yield Trainer


def start(options: TrainingOptions) -> None:
    if options.seeds is not None:
        raise UserError("--seeds: in NumPy one run after the other")
    config = options.config
    with Run(config, options.output, options.checkpoints.checkpoint_every, options.resume) as run:
        trainer = run.prepare(framework(config))
        for part in run.parts():
            run.trained(trainer.train_steps(part.order, part.first, part.last))
            if part.ends_epoch:
                run.evaluated(trainer.evaluate())
        run.finish()


def main() -> None:
    about = "Trains the MLP in NumPy, in float64."
    run_command("python -m examples.numpy_side.train", TrainingOptions, start, parse_config, description=about)


if __name__ == "__main__":
    main()
