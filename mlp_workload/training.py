"""The loop around a trainer: the same events and the same run folder whichever framework does the steps."""

import contextlib
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mlp_workload.config import Config
from mlp_workload.data import Dataset, load
from mlp_workload.environment import describe_environment
from mlp_workload.errors import UserError
from mlp_workload.events import Evaluated, Event, RunFinished, RunStarted, TrainLosses, Warned
from mlp_workload.files import expand
from mlp_workload.metrics import Evaluation
from mlp_workload.order import epoch_order
from mlp_workload.run_folder import RunFolder, claim_default
from mlp_workload.trace import Trace
from mlp_workload.watching import Watching
from mlp_workload.weights import Parameters, load_weights, parameter_shapes

T = TypeVar("T")


class Trainer(Protocol):
    """What a framework must provide."""

    @property
    def framework(self) -> str: ...

    @property
    def packages(self) -> Sequence[str]:
        """Whose versions matter; the first is the framework's."""

    @property
    def device(self) -> str:
        """ "cpu", or "gpu" with the card's name."""

    def compile(self) -> None:
        """Makes everything ready, so that the first epoch takes as long as the others."""

    def run_epoch(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        """Trains once over the training set in `order` (n,); the losses (steps,) when all is computed."""

    def evaluate(self) -> Evaluation: ...

    def parameters(self) -> Parameters:
        """A copy of the weights under neutral names."""

    def state(self) -> Parameters:
        """A copy of all that the next step depends on: the weights and, where the run has momentum, the velocities as
        `layers.0.weight.momentum`, zeros before the first step."""

    def load_state(self, state: Parameters) -> None:
        """Goes on from what `state` returned, which it copies."""

    def trace_step(self, batch: npt.NDArray[np.int32]) -> Trace:
        """Trains on the examples `batch` (b,), as `run_epoch` does with each of its batches, and tells all of it."""


MakeTrainer = Callable[[Config, Dataset, Parameters | None], Trainer]
"""Takes the starting weights, which it copies, or None for the framework's own initialiser. Raises `UserError` where
the wanted device is not there."""
Framework = Callable[[Config], AbstractContextManager[MakeTrainer]]
"""Imports what it takes; all that a trainer does happens within the context."""


def train(config: Config, framework: Framework, watching: Watching) -> dict[str, Any]:
    """Trains as `config` says, leaves a run folder, and returns the content of its summary.json.

    Raises `UserError` where the data, the starting weights, the device, a required Visdom server or the run folder are
    not to be had, before anything is trained; the folder is claimed last, so that none of the others leaves an empty
    one behind. Where the events can't be written any more, the weights so far are saved before it is raised.
    """
    start = time.perf_counter()
    watching.check()
    summary: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        make_trainer, dataset = _begin(stack, framework, config)
        check_batch_size(config, dataset)
        initial = None
        shapes = parameter_shapes(config.widths(dataset.pixels, dataset.classes))
        if config.initial_weights is not None:
            initial = load_weights(expand(config.initial_weights), shapes, config.dtype)
        stack.enter_context(clear_memory_errors())
        trainer = make_trainer(config, dataset, initial)
        _, compile_seconds = _timed(trainer.compile)
        if config.run_dir is None:
            folder = claim_default(config, trainer.framework)
        else:
            folder = RunFolder(expand(config.run_dir), config)
        stack.enter_context(folder.reserve(np.dtype(config.dtype).itemsize * sum(map(math.prod, shapes.values()))))
        sinks = []
        for sink in watching.sinks(config, dataset, folder.path, trainer.framework):
            stack.callback(sink.close)
            sinks.append(sink)
        for event in run(config, dataset, trainer, start, compile_seconds):
            if isinstance(event, RunFinished):
                summary |= event.summary
                folder.save_weights(trainer.parameters())
                folder.save_summary(summary)
            try:
                for sink in sinks:
                    sink.emit(event)
            except UserError as error:
                folder.save_weights(trainer.parameters())
                raise UserError(f"{error}; the weights so far are in {folder.weights}") from error
    return summary


def _begin(stack: contextlib.ExitStack, framework: Framework, config: Config) -> tuple[MakeTrainer, Dataset]:
    """Imports the framework and reads the data, side by side where the data are files: TFDS imports much itself."""
    if config.dataset.startswith("tfds:"):
        return stack.enter_context(framework(config)), load(config.dataset)
    with ThreadPoolExecutor(1) as reader:
        loading = reader.submit(load, config.dataset)
        return stack.enter_context(framework(config)), loading.result()


def run(config: Config, dataset: Dataset, trainer: Trainer, start: float, compile_seconds: float) -> Iterator[Event]:
    """The events of a run of a compiled trainer, which goes on as they are taken.

    `start` is when the work began, by `time.perf_counter`.
    """
    environment = describe_environment(("numpy", *trainer.packages))
    facts = {
        "framework": trainer.framework,
        "framework_version": environment["versions"][trainer.packages[0]],
        "preset": config.preset,
        "dataset": config.dataset,
        "dataset_digest": dataset.digest,
        "train_examples": len(dataset.train),
        "device": trainer.device,
        "seed": config.seed,
        "environment": environment,
    }
    yield RunStarted(config, facts)

    step, train_seconds, evaluate_seconds = 0, 0.0, 0.0
    for epoch in range(1, config.epochs + 1):
        trained = _train_epoch(config, dataset, trainer, epoch, step + 1)
        yield trained
        yield from _warn_of_divergence(trained)
        step += len(trained.losses)
        train_seconds += trained.seconds
        evaluation, evaluated = _evaluate(config, trainer, epoch, step)
        yield evaluated
        evaluate_seconds += evaluated.seconds
    if config.epochs == 0:
        evaluation, evaluated = _evaluate(config, trainer, 0, 0)
        yield evaluated
        evaluate_seconds = evaluated.seconds

    finite = bool(np.isfinite(evaluation.loss))  # nan is not above 0 either, and no class is recognised by it
    dead_logits = evaluation.never_positive if finite and config.logits_activation == "relu" else []
    if finite:
        yield from _warn_of_losses(config, dataset, evaluation, dead_logits)
    yield RunFinished(
        {
            **facts,
            "steps": step,
            "test_correct": evaluation.correct,
            "test_examples": evaluation.examples,
            "test_accuracy": evaluation.accuracy,
            "test_loss": evaluation.loss,
            "article_test_loss": evaluated.article_test_loss,
            "dead_logits": dead_logits,
            "lost_classes": evaluation.lost_classes,
            "compile_seconds": compile_seconds,
            "train_seconds": train_seconds,
            "evaluate_seconds": evaluate_seconds,
            "total_seconds": time.perf_counter() - start,
        }
    )


def _train_epoch(config: Config, dataset: Dataset, trainer: Trainer, epoch: int, first_step: int) -> TrainLosses:
    order = epoch_order(config.seed, epoch, len(dataset.train))
    labels_digest = hashlib.sha256(dataset.train.labels[order].tobytes()).hexdigest()
    losses, seconds = _timed(lambda: trainer.run_epoch(order))
    return TrainLosses(epoch, first_step, losses, labels_digest, seconds)


def _evaluate(config: Config, trainer: Trainer, epoch: int, step: int) -> tuple[Evaluation, Evaluated]:
    evaluation, seconds = _timed(trainer.evaluate)
    return evaluation, Evaluated(
        epoch,
        step,
        evaluation.loss,
        evaluation.article_loss(config.batch_size),
        evaluation.correct,
        evaluation.examples,
        evaluation.mistakes,
        seconds,
    )


def _warn_of_divergence(trained: TrainLosses) -> Iterator[Warned]:
    broken = np.flatnonzero(~np.isfinite(trained.losses))
    if broken.size:
        step, loss = trained.first_step + broken[0], trained.losses[broken[0]]
        yield Warned(f"the loss is {loss} from step {step} of epoch {trained.epoch}: try a lower --learning-rate")


def _warn_of_losses(
    config: Config, dataset: Dataset, evaluation: Evaluation, dead_logits: Sequence[int]
) -> Iterator[Warned]:
    """Warns of classes that the network can't, or doesn't, tell any more."""

    def name(labels: Sequence[int]) -> str:
        return ", ".join(dataset.class_names[label] for label in labels)

    if dead_logits:
        yield Warned(
            f"{len(dead_logits)} dead logits ({name(dead_logits)}): the last ReLU makes them 0 for every test example, "
            "where no gradient passes; --last-activation none cures it"
        )
    if config.epochs > 0 and (lost := evaluation.lost_classes):
        cure = "; --last-activation none cures it" if config.last_activation == "same" else ""
        yield Warned(f"{len(lost)} lost classes ({name(lost)}): no test example of them is recognised{cure}")


def check_batch_size(config: Config, dataset: Dataset) -> None:
    """Raises `UserError` where a batch is larger than the training set."""
    if config.batch_size > (examples := len(dataset.train)):
        raise UserError(f"--batch-size must be at most {examples}, the training examples, got {config.batch_size}")


@contextlib.contextmanager
def clear_memory_errors() -> Iterator[None]:
    """Turns running out of memory, a `RuntimeError` of many lines in both frameworks, into a `UserError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", str(error), re.I):
            raise
        raise UserError("not enough memory: try smaller --hidden or --batch-size, or --device cpu") from error


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start
