"""Makes the events of a run from what a trainer computes."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.environment.description import VARIABLES_OF_0_1, describe_environment, numeric_settings
from mlp_workload.events import Evaluated, Event, RunFinished, RunResumed, RunStarted, TrainLosses, Warned
from mlp_workload.interface import Implementation
from mlp_workload.metrics import Evaluation, recalls, worst

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Returns the result of `work`, and the seconds that it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


class RunEvents:
    """Makes them in the order of a run: `started`, for each epoch `trained` and `evaluated`, `finished`.

    `start` is when the work began, by `time.perf_counter`; `facts` are more of what the summary shall hold.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        implementation: Implementation,
        start: float,
        compile_seconds: float,
        **facts: Any,
    ) -> None:
        packages = ("numpy", *implementation.packages)
        environment = describe_environment(packages, implementation.gpu_versions, implementation.threads)
        self._config, self._dataset, self._start = config, dataset, start
        self._implementation = implementation
        self._facts = {
            "framework": implementation.framework,
            "framework_version": environment["versions"][implementation.packages[0]],
            "preset": config.preset,
            "dataset": config.dataset,
            "dataset_digest": dataset.digest,
            "data_notes": list(dataset.notes),
            "class_names": list(dataset.class_names),
            "images": dataset.image_format.to_json(),
            "train_examples": len(dataset.train),
            "device": implementation.device,
            "precision": config.precision,
            "devices": config.devices,
            "split_hidden": config.split_hidden,
            "seed": config.seed,
            "environment": environment,
            **facts,
        }
        self._resumed: list[dict[str, Any]] = []
        self._epoch = self._step = 0
        self._compile_seconds, self._train_seconds, self._evaluate_seconds = compile_seconds, 0.0, 0.0
        self.last: tuple[Evaluation, Evaluated] | None = None
        """The last evaluation, if any."""

    def started(self) -> Iterator[Event]:
        yield RunStarted(self._config, self._facts)
        yield from map(Warned, self._dataset.warnings)

    def resumed(self, step: int, events: Iterable[Event]) -> Iterator[Event]:
        """Yields the first events of a run that is resumed after `step` steps and the recorded `events`."""
        before: Mapping[str, Any] = {}
        for event in events:
            match event:
                case RunStarted() | RunResumed():
                    before = event.facts
                    by = {name: event.facts.get(name) for name in ("framework", "device")}
                    self._resumed.append(by | {"from_step": getattr(event, "step", 0)})
                case TrainLosses():
                    self._epoch, self._step = event.epoch, event.first_step + len(event.losses) - 1
                    self._train_seconds += event.seconds
                case Evaluated():
                    self._evaluate_seconds += event.seconds
        self._start -= self._train_seconds + self._evaluate_seconds
        yield RunResumed(self._config, self._facts, step)
        yield from map(Warned, self._dataset.warnings)
        yield from self._warn_of_other_settings(before)

    def _warn_of_other_settings(self, before: Mapping[str, Any]) -> Iterator[Warned]:
        """Warns if the run goes on with settings that may change its numbers, other than by its flags."""
        if any(self._facts[name] != before.get(name) for name in ("framework", "device")):
            return  # then the numbers are others anyway
        recorded = before.get("environment")
        now, then = map(numeric_settings, (self._facts["environment"], recorded))
        if isinstance(recorded, Mapping) and "threads" not in recorded:  # version 0.1, which knew fewer settings
            now = numeric_settings(self._facts["environment"] | {"threads": None})
            now = {name: value for name, value in now.items() if name in VARIABLES_OF_0_1}
        changed = [
            f"{name} {now.get(name, 'unset')}, before {then.get(name, 'unset')}"
            for name in sorted(now.keys() | then.keys())
            if now.get(name) != then.get(name)
        ]
        if changed:
            yield Warned(f"the run may end with other bits than without the interruption: {'; '.join(changed)}")

    def trained(
        self, order: npt.NDArray[np.int32], losses: npt.NDArray[np.floating[Any]], seconds: float
    ) -> Iterator[Event]:
        """Yields the events of the next epoch, over the examples `order` (n,), with `losses` (steps,)."""
        self._epoch += 1
        first_step = self._step + 1
        self._step += len(losses)
        self._train_seconds += seconds
        labels_digest = hashlib.sha256(self._dataset.train.labels[order].tobytes()).hexdigest()
        yield TrainLosses(self._epoch, first_step, losses, labels_digest, seconds)
        broken = np.flatnonzero(~np.isfinite(losses))
        if broken.size:
            yield Warned(
                f"the loss is {losses[broken[0]]} from step {first_step + broken[0]} of epoch {self._epoch}: "
                "try a lower --learning-rate"
            )

    def evaluated(self, evaluation: Evaluation, seconds: float) -> Evaluated:
        """Returns the event of an evaluation after the last epoch that was `trained`, or before the first."""
        self._evaluate_seconds += seconds
        article_loss = evaluation.article_loss(self._config.batch_size)
        counts = evaluation.correct, evaluation.examples, evaluation.mistakes
        event = Evaluated(self._epoch, self._step, evaluation.loss, article_loss, *counts, seconds)
        self.last = evaluation, event
        return event

    def finished(self) -> Iterator[Event]:
        """Yields the events that end a run, by the last evaluation."""
        assert self.last is not None
        evaluation, event = self.last
        finite = bool(np.isfinite(evaluation.loss))  # nan is not above 0 either, and no class is recognised by it
        dead_logits = evaluation.never_positive if finite and self._config.logits_activation == "relu" else []
        if dead_logits:
            yield Warned(
                f"{len(dead_logits)} dead logits ({self._names(dead_logits)}): the last ReLU makes them 0 for every "
                "test example, where no gradient passes; --last-activation none cures it"
            )
        lost = [label for label in evaluation.lost_classes if label in self._dataset.train.labels]
        if finite and self._epoch > 0 and lost:
            cure = "; --last-activation none cures it" if self._config.last_activation == "same" else ""
            yield Warned(f"{len(lost)} lost classes ({self._names(lost)}): no test example of them is recognised{cure}")
        classes = recalls(evaluation.confusion, self._dataset.class_names)
        yield RunFinished(
            {
                **self._facts,
                **({"before": self._resumed} if self._resumed else {}),
                "steps": self._step,
                "test_correct": evaluation.correct,
                "test_examples": evaluation.examples,
                "test_accuracy": evaluation.accuracy,
                "test_loss": evaluation.loss,
                "article_test_loss": event.article_test_loss,
                "dead_logits": dead_logits,
                "lost_classes": evaluation.lost_classes,
                "worst_class": worst(classes).name,
                "class_recall": [vars(one) | {"recall": one.fraction} for one in classes],
                "peak_gpu_bytes": self._implementation.peak_gpu_bytes,
                "compile_seconds": self._compile_seconds,
                "train_seconds": self._train_seconds,
                "evaluate_seconds": self._evaluate_seconds,
                "total_seconds": time.perf_counter() - self._start,
            }
        )

    def _names(self, labels: Sequence[int]) -> str:
        return ", ".join(self._dataset.class_names[label] for label in labels)
