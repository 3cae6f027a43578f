"""Trains the MLP in PyTorch: `python -m reference_torch.train --help`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import mlp_workload.run.seeds
from mlp_workload.cli.parse import run_command
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import Config
from mlp_workload.interface import MakeSeedsTrainer, MakeTrainer
from mlp_workload.run.checkpointing import CHECKPOINT_EVERY, Resume
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.session import Run
from reference_torch.distributed import ProcessGroup


def train(
    config: Config,
    output: OutputOptions | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: Resume = False,
) -> dict[str, Any]:
    """Trains as `config` says and returns the run's summary; see `mlp_workload.run.session.Run`.

    Returns an empty summary in the processes that torchrun started other than the first.
    """
    is_first = ProcessGroup.for_run(config).is_first
    with Run(config, output, checkpoint_every, resume, is_first) as run:
        trainer = run.prepare(framework(config))
        for part in run.parts():
            run.trained(trainer.train_steps(part.order, part.first, part.last))
            if part.ends_epoch:
                run.evaluated(trainer.evaluate())
        run.finish()
    return run.summary


def train_seeds(config: Config, seeds: int, output: OutputOptions | None = None) -> dict[str, Any]:
    """Trains with so many seeds from `config.seed` on; see `mlp_workload.run.seeds.train_seeds`."""
    ProcessGroup.for_run(config)  # refuses several processes
    return mlp_workload.run.seeds.train_seeds(config, seeds, seeds_framework, output or OutputOptions())


@contextlib.contextmanager
def framework(config: Config) -> Iterator[MakeTrainer]:
    """Imports PyTorch and yields its trainer; all that the trainer does happens within this context."""
    group = ProcessGroup.from_environment()
    if group.processes == 1:
        from reference_torch.trainer import Trainer

        yield Trainer
    else:
        group = ProcessGroup.for_run(config)
        from reference_torch.data_parallel import DataParallelTrainer

        with group.join(config), contextlib.ExitStack() as trainers:
            yield lambda *run: trainers.enter_context(contextlib.closing(DataParallelTrainer(group, *run)))


@contextlib.contextmanager
def seeds_framework(config: Config, models: int) -> Iterator[MakeSeedsTrainer]:
    """Imports PyTorch and yields its trainer of many seeds."""
    from reference_torch.seeds import SeedsTrainer

    yield SeedsTrainer


def main() -> None:
    about = "Trains the MLP in PyTorch."
    run_command("python -m reference_torch.train", TrainingOptions, start, parse_config, description=about)


def start(options: TrainingOptions) -> None:
    if options.seeds is None:
        train(options.config, options.output, options.checkpoints.checkpoint_every, options.resume)
    else:
        train_seeds(options.config, options.seeds, options.output)


if __name__ == "__main__":
    main()
