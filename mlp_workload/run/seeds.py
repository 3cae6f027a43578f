"""Many runs that differ only in their seeds, in one process: a run folder each, and seeds.json about all of them."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from mlp_workload.batches import epoch_order
from mlp_workload.config import LARGEST_SEED, Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError, clear_memory_errors, warn
from mlp_workload.events import Event, Warned
from mlp_workload.files import clear_write_errors, expand, write_json
from mlp_workload.interface import MakeSeedsTrainer, SeedsTrainer
from mlp_workload.run.folder import RunFolder, make_empty_folder, new_default_folder
from mlp_workload.run.inputs import initial_weights, reading, weights_bytes
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.recorder import Recorder
from mlp_workload.run.run_events import RunEvents, timed
from mlp_workload.run.signals import Stopped, StopSignals
from mlp_workload.sinks.console import Output

SeedsFramework = Callable[[Config, int], AbstractContextManager[MakeSeedsTrainer]]
"""`train.seeds_framework` of a side, for so many models in all; all that its trainer does happens in the context."""


def train_seeds(config: Config, seeds: int, framework: SeedsFramework, output: OutputOptions) -> dict[str, Any]:
    """Trains with the seeds `config.seed`, `config.seed` + 1 and so on; returns the content of seeds.json.

    Leaves a folder with that and a run folder for each seed, `seed-0` and so on. Nothing goes to Visdom. Raises
    `UserError` as `mlp_workload.run.session.Run` does; the weights of models that train together are saved then.
    """
    start = time.perf_counter()
    if not 1 <= seeds <= LARGEST_SEED + 1 - config.seed:
        raise UserError(f"--seeds must be from 1 to {LARGEST_SEED + 1} less --seed, got {seeds}")
    if output.visdom == "required":
        raise UserError("--visdom required is for one run: --seeds draws none, mlp_workload.dashboard --replay can")
    replace(output, visdom="off").check()
    console = Output(quiet=output.quiet)
    summaries: list[Mapping[str, Any]] = []
    result: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        read = stack.enter_context(reading(config))
        make, dataset = stack.enter_context(framework(config, seeds)), read()
        initial = initial_weights(config, dataset)
        stack.enter_context(clear_memory_errors())
        trainer = make(config, dataset, initial)
        _, compile_seconds = timed(trainer.compile)
        folder = _claim(config, seeds, trainer.framework)
        together = "one after another" if trainer.at_once == 1 else f"{trainer.at_once} at once"
        console.say(
            f"{trainer.framework} on {trainer.device}, {config.preset} preset, {config.dataset}, {config.dtype}, "
            f"seeds {config.seed} to {config.seed + seeds - 1}, {together}"
        )
        if not output.quiet:  # if quiet, each run prints its own warnings
            console.tell_of(dataset)
        console.say(f"folder {folder}")
        progress = stack.enter_context(console.progress())
        task = progress.add_task("", total=seeds * config.epochs)
        for first in range(0, seeds, trainer.at_once):
            some = range(config.seed, config.seed + seeds)[first : first + trainer.at_once]
            configs = [replace(config, seed=seed, run_dir=folder / f"seed-{seed}") for seed in some]
            began = time.perf_counter() if summaries else start
            once = 0.0 if summaries else compile_seconds
            events = [RunEvents(one, dataset, trainer, began, once, at_once=trainer.at_once) for one in configs]
            advance = partial(progress.advance, task, len(configs))
            group = _train_together(configs, dataset, trainer, output, events, signals, advance)
            for summary in group:
                lost, line = summary["lost_classes"], f"seed {summary['seed']:3d}  test loss {summary['test_loss']:.4f}"
                line += f"  accuracy {summary['test_accuracy']:.2%}"
                if not np.isfinite(summary["test_loss"]):
                    line += "  diverged: try a lower --learning-rate"
                elif lost:
                    line += f"  lost classes {', '.join(map(str, lost))}"
                console.say(line)
            summaries += group
            result = _result(summaries, trainer.at_once, config.epochs, compile_seconds)
            write_json(folder / "seeds.json", result)
    correct = [summary["test_correct"] for summary in summaries]
    if seeds > 1:
        console.say(
            f"{seeds} seeds: {np.mean(correct):.1f} of {summaries[0]['test_examples']} correct in the mean, standard "
            f"deviation {np.std(correct, ddof=1):.1f}, from {min(correct)} to {max(correct)}"
        )
    if config.epochs > 0:
        speed = result["model_epochs_per_second"]
        console.say(f"{speed:.2f} epochs of a model per second, with evaluations, {together}")
    console.say(f"a run folder for each seed, and seeds.json, are in {folder}")
    return result


def _result(
    summaries: Sequence[Mapping[str, Any]], at_once: int, epochs: int, compile_seconds: float
) -> dict[str, Any]:
    """Returns the content of seeds.json. Models that train together, `at_once`, share the time that they took."""
    seconds = sum(one["train_seconds"] + one["evaluate_seconds"] for one in summaries[::at_once])
    machine = ("device", "precision", "environment")
    common = ("framework", "framework_version", "preset", "dataset", "dataset_digest", *machine)
    own = ("seed", "steps", "test_correct", "test_examples", "test_accuracy", "test_loss", "lost_classes")
    return {key: summaries[0][key] for key in common} | {
        "seeds": [{key: summary[key] for key in own} for summary in summaries],
        "at_once": at_once,
        "model_epochs_per_second": len(summaries) * epochs / seconds,
        "train_and_evaluate_seconds": seconds,
        "compile_seconds": compile_seconds,
    }


def _train_together(
    configs: Sequence[Config],
    dataset: Dataset,
    trainer: SeedsTrainer,
    output: OutputOptions,
    events: Sequence[RunEvents],
    signals: StopSignals,
    advance: Callable[[], None],
) -> list[Mapping[str, Any]]:
    """Trains a model for each of `configs`, which differ in their seeds alone; the summaries.

    Raises `Stopped` after the epoch in which a signal came, with all weights saved.
    """
    with contextlib.ExitStack() as stack:
        trainer.start([config.seed for config in configs])
        weights = cache(trainer.parameters)
        recorders: list[Recorder] = []
        for model, config in enumerate(configs):
            assert config.run_dir is not None
            folder = stack.enter_context(RunFolder.claim(config.run_dir, config))
            sinks = list(output.files(folder.path))
            stack.enter_context(folder.reserve(weights_bytes(config, dataset)))
            recorders.append(Recorder(stack, folder, lambda model=model: weights()[model], sinks))  # type: ignore[misc]

        def emit(events_of_each: Iterable[Iterable[Event]]) -> None:
            for config, recorder, own in zip(configs, recorders, events_of_each, strict=True):
                for event in own:
                    recorder.emit(event)
                    if output.quiet and isinstance(event, Warned):
                        warn(f"seed {config.seed}: {event.message}")

        try:
            emit(one.started() for one in events)
            for epoch in range(1, configs[0].epochs + 1) or [0]:
                if epoch:
                    orders = np.stack([epoch_order(config.seed, epoch, len(dataset.train)) for config in configs])
                    losses, seconds = timed(partial(trainer.train_steps, orders))
                    own = zip(events, orders, losses, strict=True)
                    emit(one.trained(order, each, seconds) for one, order, each in own)
                evaluations, seconds = timed(trainer.evaluate)
                emit([one.evaluated(each, seconds)] for one, each in zip(events, evaluations, strict=True))
                advance()
                if signals.received is not None:
                    said = f"stopped after epoch {epoch}; the weights of then are kept, and --seeds can't be resumed"
                    raise Stopped(said, signals.received)
            emit(one.finished() for one in events)
        except (UserError, KeyboardInterrupt):
            for recorder in recorders:
                recorder.save_weights()
            raise
        return [recorder.summary for recorder in recorders]


def _claim(config: Config, seeds: int, framework: str) -> Path:
    """Makes the folder for all runs, with a seeds.json. Raises `UserError` if it is not new or empty."""
    if config.run_dir is None:
        path = new_default_folder(framework, config, f"seeds{config.seed}-{config.seed + seeds - 1}")
    else:
        make_empty_folder(path := expand(config.run_dir))
    try:
        with clear_write_errors(path), (path / "seeds.json").open("x") as file:
            file.write("{}\n")
    except FileExistsError:
        raise UserError(f"--run-dir {path} is in use by another run; name a new or empty folder") from None
    return path
