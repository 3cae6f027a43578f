"""Trains the MLP in JAX: `python -m jax_mlp.train --help`."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlp_workload.run.seeds
from jax_mlp.distributed import ProcessGroup, ProcessOptions, ending_alone
from jax_mlp.startup import started_jax
from mlp_workload.cli.parse import run_command
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import Config
from mlp_workload.environment.compile_cache import keep_compiled_programs
from mlp_workload.errors import UserError
from mlp_workload.interface import MakeSeedsTrainer, MakeTrainer
from mlp_workload.run.checkpointing import CHECKPOINT_EVERY, Resume
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.session import Run


def train(
    config: Config,
    output: OutputOptions | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: Resume = False,
    process_options: ProcessOptions | None = None,
) -> dict[str, Any]:
    """Trains as `config` says and returns the run's summary; see `mlp_workload.run.session.Run`.

    Returns an empty summary in the processes of a run other than the first.
    """
    group = (process_options or ProcessOptions()).for_run(config)
    with Run(config, output, checkpoint_every, resume, group.is_first) as run:
        trainer = run.prepare(framework(config, group))
        for part in run.parts():
            run.trained(trainer.train_steps(part.order, part.first, part.last))
            if part.ends_epoch:
                run.evaluated(trainer.evaluate())
        run.finish()
    return run.summary


def train_seeds(config: Config, seeds: int, output: OutputOptions | None = None) -> dict[str, Any]:
    """Trains with so many seeds from `config.seed` on; see `mlp_workload.run.seeds.train_seeds`."""
    return mlp_workload.run.seeds.train_seeds(config, seeds, seeds_framework, output or OutputOptions())


@contextlib.contextmanager
def framework(config: Config, group: ProcessGroup | None = None) -> Iterator[MakeTrainer]:
    """Imports JAX and yields its trainer; all that the trainer does happens within this context."""
    with started_jax():
        import jax

        from jax_mlp.trainer import Trainer

        with (group or ProcessGroup()).join(config), jax.enable_x64(config.dtype == "float64"):
            yield Trainer


@contextlib.contextmanager
def seeds_framework(config: Config, models: int) -> Iterator[MakeSeedsTrainer]:
    """Imports JAX and yields its trainer of many seeds."""
    with started_jax():
        import jax

        from jax_mlp.seeds import make_seeds_trainer

        with jax.enable_x64(config.dtype == "float64"):
            yield partial(make_seeds_trainer, models=models)


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """Options of the command."""

    process_options: ProcessOptions

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds is not None and self.process_options != ProcessOptions():
            raise UserError("--coordinator, --processes and --process are for one run, not for --seeds")


def main() -> None:
    keep_compiled_programs()
    with ending_alone():
        about = "Trains the MLP in JAX, Flax and optax."
        run_command("python -m jax_mlp.train", Options, start, parse_config, description=about)


def start(options: Options) -> None:
    if options.seeds is None:
        every = options.checkpoints.checkpoint_every
        train(options.config, options.output, every, options.resume, options.process_options)
    else:
        train_seeds(options.config, options.seeds, options.output)


if __name__ == "__main__":
    main()
