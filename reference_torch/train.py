"""Trains the MLP in PyTorch: `python -m reference_torch.train --help`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import mlp_workload.run.seeds
from mlp_workload.cli.trainer import TrainingOptions, run_trainer
from mlp_workload.config import Config
from mlp_workload.interface import MakeEnsemble, MakeTrainer
from mlp_workload.run.checkpointing import CHECKPOINT_EVERY, Resume
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.session import Run
from reference_torch.distributed import Rank


def train(
    config: Config,
    output: OutputOptions | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: Resume = False,
) -> dict[str, Any]:
    """Trains as `config` says and returns the run's summary; see `mlp_workload.run.session.Run`.

    Returns an empty summary in the processes that torchrun started other than the first.
    """
    is_first = Rank.of(config).is_first
    with Run(config, output, checkpoint_every, resume, is_first) as run, framework(config) as make:
        trainer = run.prepare(make)
        for part in run.parts():
            run.trained(trainer.train_steps(part.order, part.first, part.last))
            if part.ends_epoch:
                run.evaluated(trainer.evaluate())
        run.finish()
    return run.summary


def train_seeds(config: Config, seeds: int, output: OutputOptions | None = None) -> dict[str, Any]:
    """Trains with so many seeds from `config.seed` on; see `mlp_workload.run.seeds.train_seeds`."""
    return mlp_workload.run.seeds.train_seeds(config, seeds, framework_of_many, output or OutputOptions())


@contextlib.contextmanager
def framework(config: Config) -> Iterator[MakeTrainer]:
    """PyTorch, imported only now: a wrong flag is answered before that, and the data are read beside it."""
    rank = Rank.here()
    if rank.world == 1:
        from reference_torch.trainer import Trainer

        yield Trainer
    else:
        rank = Rank.of(config)
        from reference_torch.data_parallel import joined

        with joined(rank, config) as make_trainer:
            yield make_trainer


@contextlib.contextmanager
def framework_of_many(config: Config, models: int) -> Iterator[MakeEnsemble]:
    """The same for many models."""
    from reference_torch.seeds import Ensemble

    yield Ensemble


def main() -> None:
    run_trainer("python -m reference_torch.train", "Trains the MLP in PyTorch.", TrainingOptions, start)


def start(options: TrainingOptions) -> None:
    if options.seeds is None:
        train(options.config, options.output, options.checkpoint_every, options.resume)
    elif Rank.of(options.config).is_first:
        train_seeds(options.config, options.seeds, options.output)


if __name__ == "__main__":
    main()
