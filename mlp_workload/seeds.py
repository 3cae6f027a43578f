"""Many runs alike but for their seeds, in one process: each has its own run folder, and all of them one table."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.files import expand
from mlp_workload.metrics import Evaluation
from mlp_workload.order import epoch_order
from mlp_workload.run_events import Implementation, RunEvents
from mlp_workload.run_folder import RunFolder, make_empty_folder, new_default_folder, write_json
from mlp_workload.sinks.console import Output
from mlp_workload.training import Record, begin, timed, weights_bytes
from mlp_workload.watching import Watching
from mlp_workload.weights import Parameters


class Ensemble(Implementation, Protocol):
    """What a framework must provide: some models that train together."""

    @property
    def at_once(self) -> int:
        """How many, at most."""

    def compile(self) -> None:
        """Makes everything ready, so that the first epoch takes as long as the others."""

    def start(self, seeds: Sequence[int]) -> None:
        """Begins anew, with a model for each of these seeds: by the framework's initialiser or from given weights."""

    def run_epoch(self, orders: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        """Trains each model once over the training set in its row of `orders` (models, n); losses (models, steps)."""

    def evaluate(self) -> list[Evaluation]: ...

    def parameters(self) -> list[Parameters]:
        """Copies of each model's weights under neutral names."""


MakeEnsemble = Callable[[Config, Dataset, Parameters | None], Ensemble]
Framework = Callable[[Config, int], AbstractContextManager[MakeEnsemble]]
"""For so many models in all; imports what it takes, and all that an ensemble does happens within the context."""


_IN_COMMON = ("framework", "framework_version", "preset", "dataset", "dataset_digest", "device", "environment")
_OF_EACH = ("seed", "steps", "test_correct", "test_examples", "test_accuracy", "test_loss", "lost_classes")


def train_seeds(config: Config, seeds: int, framework: Framework, watching: Watching) -> dict[str, Any]:
    """Trains with the seeds `config.seed`, `config.seed` + 1 and so on; returns the content of seeds.json.

    Leaves a folder with that and a run folder for each seed, `seed-0` and so on. Nothing goes to Visdom. Raises
    `UserError` as `mlp_workload.training.train` does.
    """
    start = time.perf_counter()
    watching.check()
    console = Output(markup=False, highlight=False, soft_wrap=True, quiet=watching.quiet)
    summaries: list[Mapping[str, Any]] = []
    with contextlib.ExitStack() as stack:
        make, dataset, initial = begin(stack, framework(config, seeds), config)
        ensemble = make(config, dataset, initial)
        _, compile_seconds = timed(ensemble.compile)
        folder = _new_folder(config, seeds, ensemble.framework)
        together = "one after another" if ensemble.at_once == 1 else f"{ensemble.at_once} at once"
        console.print(
            f"{ensemble.framework} on {ensemble.device}, {config.preset} preset, {config.dataset}, {config.dtype}, "
            f"seeds {config.seed} to {config.seed + seeds - 1}, {together}"
        )
        console.print(f"folder {folder}")
        trained_from = time.perf_counter()
        progress = stack.enter_context(Progress(console=console, transient=True, disable=not console.is_terminal))
        task = progress.add_task("", total=seeds * config.epochs)
        for first in range(0, seeds, ensemble.at_once):
            some = range(config.seed, config.seed + seeds)[first : first + ensemble.at_once]
            configs = [replace(config, seed=seed, run_dir=folder / f"seed-{seed}") for seed in some]
            group = _Group(configs, dataset, ensemble, watching, start, compile_seconds)
            for _ in group.epochs():
                progress.advance(task, len(configs))
            for summary in group.summaries:
                summaries.append(summary)
                console.print(_line(summary))
    seconds = time.perf_counter() - trained_from
    result = {key: summaries[0][key] for key in _IN_COMMON} | {
        "seeds": [{key: summary[key] for key in _OF_EACH} for summary in summaries],
        "at_once": ensemble.at_once,
        "models_epochs_per_second": seeds * config.epochs / seconds,
        "compile_seconds": compile_seconds,
        "train_and_evaluate_seconds": seconds,
        "total_seconds": time.perf_counter() - start,
    }
    write_json(folder / "seeds.json", result)
    correct = [summary["test_correct"] for summary in summaries]
    if seeds > 1:
        console.print(
            f"{seeds} seeds: {np.mean(correct):.1f} of {summaries[0]['test_examples']} correct in the mean, standard "
            f"deviation {np.std(correct, ddof=1):.1f}, from {min(correct)} to {max(correct)}"
        )
    console.print(
        f"{result['models_epochs_per_second']:.2f} epochs of a model per second, evaluations included, "
        f"{together}; {seconds:.1f} s, and {compile_seconds:.1f} s to compile"
    )
    console.print(f"a run folder for each seed, and seeds.json, are in {folder}")
    return result


class _Group:
    """The runs of some seeds whose models train together."""

    def __init__(
        self,
        configs: Sequence[Config],
        dataset: Dataset,
        ensemble: Ensemble,
        watching: Watching,
        start: float,
        compile_seconds: float,
    ) -> None:
        self._configs, self._dataset, self._ensemble, self._watching = configs, dataset, ensemble, watching
        self._events = [
            RunEvents(config, dataset, ensemble, start, compile_seconds, at_once=len(configs)) for config in configs
        ]
        self.summaries: Sequence[Mapping[str, Any]] = ()

    def epochs(self) -> Iterator[int]:
        """Trains, an epoch for each turn."""
        first = self._configs[0]
        with contextlib.ExitStack() as stack:
            self._ensemble.start([config.seed for config in self._configs])
            records = self._records(stack)
            for record, events in zip(records, self._events, strict=True):
                record.tell(events.started())
            for epoch in range(1, first.epochs + 1):
                orders = np.stack([epoch_order(c.seed, epoch, len(self._dataset.train)) for c in self._configs])
                losses, seconds = timed(partial(self._ensemble.run_epoch, orders))
                for record, events, order, own in zip(records, self._events, orders, losses, strict=True):
                    for event in events.trained(order, own, seconds):
                        record.tell(event)
                self._evaluate(records)
                yield epoch
            if first.epochs == 0:
                self._evaluate(records)
            for record, events in zip(records, self._events, strict=True):
                for event in events.finished():
                    record.tell(event)
            self.summaries = [record.summary for record in records]

    def _records(self, stack: contextlib.ExitStack) -> list[Record]:
        weights = cache(self._ensemble.parameters)
        room = weights_bytes(self._configs[0], self._dataset)
        records = []
        for model, config in enumerate(self._configs):
            assert config.run_dir is not None
            folder = stack.enter_context(RunFolder.claim(config.run_dir, config))
            sinks = self._watching.files(folder.path)
            records.append(Record(stack, folder, room, partial(_item, weights, model), sinks))
        return records

    def _evaluate(self, records: Sequence[Record]) -> None:
        evaluations, seconds = timed(self._ensemble.evaluate)
        for record, events, evaluation in zip(records, self._events, evaluations, strict=True):
            record.tell(events.evaluated(evaluation, seconds))


def _item(all_weights: Callable[[], Sequence[Parameters]], model: int) -> Parameters:
    return all_weights()[model]


def _new_folder(config: Config, seeds: int, framework: str) -> Path:
    """Raises `UserError` where the one that `config` names is not new or empty."""
    if config.run_dir is None:
        return new_default_folder(framework, config, f"seeds{config.seed}-{config.seed + seeds - 1}")
    make_empty_folder(path := expand(config.run_dir))
    return path


def _line(summary: Mapping[str, Any]) -> str:
    lost = summary["lost_classes"]
    return (
        f"seed {summary['seed']:3d}  test loss {summary['test_loss']:.4f}  accuracy {summary['test_accuracy']:.2%}"
        f"{f'  lost classes {lost}' if lost else ''}"
    )
