"""Runs two sides in lockstep: measures the largest differences and finds the first mismatch."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from mlp_compare.comparable import require_comparable
from mlp_compare.parity import bound_table
from mlp_compare.parity.result import Mismatch, MismatchFound, Report
from mlp_compare.parity.sign_flips import SignFlip, find_sign_flips, sign_flip_effect
from mlp_compare.parity.worker import Evaluated
from mlp_workload.batches import steps_per_epoch
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.interface import pre_activation
from mlp_workload.optimizer import adam_change, is_adaptive
from mlp_workload.weights import Parameters, is_parameter
from twincheck.bounds import Bound
from twincheck.comparison import Array, Comparison, Difference, compare, difference
from twincheck.pipe import WorkerProcess, ask_all
from twincheck.trace import Trace


class Lockstep:
    """Compares `steps` steps of `config` on two `sides`, each in its worker process.

    Until the first ReLU sign flip, the sides train independently. After it, both begin each step from the parameters of
    the first side, because runs with different gradients diverge. Every step is still compared. With an adaptive
    optimizer in float32 every step begins from common parameters, because the update amplifies the rounding of small
    gradients.
    """

    def __init__(self, config: Config, dataset: Dataset, sides: Sequence[WorkerProcess], steps: int) -> None:
        self._config, self._sides, self._steps = config, sides, steps
        self._epoch = steps_per_epoch(len(dataset.train), config.batch_size)
        terms = max(*config.widths(dataset.pixels, dataset.classes), config.batch_size)
        adaptive_rate = config.learning_rate / config.epsilon if is_adaptive(config) else 0.0
        self._table = partial(bound_table.table, config.dtype, terms, adaptive_rate=adaptive_rate)
        self._rebased_at = 1 if rebases_always(config) else None
        self.report = Report()

    def run(
        self,
        trace_steps: Collection[int],
        faults: Sequence[str | None] = (None, None),
        evaluate: bool = True,
        free_runs: bool = True,
        on_trace: Callable[[tuple[Trace, Trace]], None] = lambda traces: None,
    ) -> Iterator[int]:
        """Yields the number of each step as soon as `report` includes it, and ends when the report is complete.

        `trace_steps` are compared tensor by tensor. `faults` has the name of the fault planted on each side, or None.
        """
        try:
            for side, fault in zip(self._sides, faults, strict=True):
                side.ask("start", self._config, fault)
            states = tuple(side.answer() for side in self._sides)
            facts = ask_all(self._sides, "facts")
            require_comparable({side.name: fact for side, fact in zip(self._sides, facts, strict=True)})
            a, b = (Trace(state, {"framework": side.name}) for state, side in zip(states, self._sides, strict=True))
            if (first := compare(a, b, lambda name: bound_table.EXACT).first) is not None:
                raise MismatchFound(Mismatch(0, first))
            states = states[0], states[0]
            if evaluate:
                self._evaluate(0)
            for step in range(1, self._steps + 1):
                if step in trace_steps:
                    on_trace(self._trace_from_common(step, states))
                if step in trace_steps or self._pauses_after(step - 1):
                    self._ask(step)
                go_on = not self._pauses_after(step) and step + 1 not in trace_steps
                states = self._step(step, states, go_on)
                self.report.steps_compared = step
                if self._pauses_after(step) and evaluate:
                    self._evaluate(step)
                yield step
            if free_runs:
                self._run_freely(states[0])
        except MismatchFound as error:
            self.report.mismatch, self.report.mismatch_traces = error.mismatch, error.traces

    def table(self) -> bound_table.Table:
        """Returns the bounds for one step from common parameters."""
        return self._table(1)

    def _pauses_after(self, step: int) -> bool:
        """Returns whether an evaluation follows `step`: at the end of each epoch and of the run."""
        return step % self._epoch == 0 or step == self._steps

    def _steps_apart(self, step: int) -> int:
        """Returns the number of steps since both sides had the same parameters."""
        return step if self._rebased_at is None or step <= self._rebased_at else 1

    def _ask(self, step: int) -> None:
        for side in self._sides:
            side.ask("step", step)

    def _step(self, step: int, before: Sequence[Parameters], go_on: bool) -> tuple[Parameters, Parameters]:
        """Compares the step that both sides were asked for, and returns the states from which they continue.

        If `go_on`, the sides compute the next step meanwhile.
        """
        a, b = (side.answer() for side in self._sides)
        table = self._table(self._steps_apart(step))
        streamed: list[tuple[str, Array, Array]] = []
        explained: Mapping[str, Array] = {}
        if (a.digest == b.digest).all() and (a.signs != b.signs).any():  # compared without the effect of the flips
            traces = ask_all(self._sides, "trace", step)
            comparison, sign_flips = self._compare(traces, before, step, table)
            self._take(step, comparison.differences, traces)
            self.report.sign_flips += sign_flips
            self._rebased_at = self._rebased_at or step
        else:
            streamed = [("batch.digest", a.digest, b.digest), ("loss", a.loss, b.loss)]
            streamed += [(name, a.state[name], b.state[name]) for name in sorted(a.state, key=is_parameter)]
            explained = self._amplified(before, a.state, b.state)
        if self._rebased_at is not None:
            self._sides[1].do("load_state", a.state)
        if go_on:
            self._ask(step + 1)
        for name, array_a, array_b in streamed:
            bound = self._bound(table, name, array_a, before[0])
            result = difference(name, array_a, array_b, bound, explained.get(name))
            if result.within:
                self.report.take(bound_table.kind(name), step, result)
                continue
            if go_on:
                for side in self._sides:
                    side.answer()
            self._find_cause(step, before, result)
            if before[0] is not before[1]:
                self.report.drifts.append(f"step {step}, {result}")
            self._rebased_at = self._rebased_at or step
            ask_all(self._sides, "load_state", a.state)
            if go_on:
                self._ask(step + 1)
            break
        self.report.losses.append((float(a.loss), float(b.loss)))
        return a.state, a.state if self._rebased_at is not None else b.state

    @staticmethod
    def _bound(table: bound_table.Table, name: str, after: Array, before: Parameters) -> Bound:
        """Returns the bound of tensor `name`; for a parameter at least the gradient's bound times the update."""
        bound = table[bound_table.kind(name)]
        if bound_table.kind(name) != "parameters":
            return bound
        with np.errstate(invalid="ignore", over="ignore"):
            update = float(np.abs(after - before[name]).max())
        return replace(bound, absolute=max(bound.absolute, table["gradients"].relative * update))

    def _compare(
        self, traces: tuple[Trace, Trace], before: Sequence[Parameters], step: int, table: bound_table.Table
    ) -> tuple[Comparison, list[SignFlip]]:
        """Compares all tensors of a step; a sign flip that rounding does not explain exceeds its bound.

        A flip has no effect before the gradients. Flips are therefore not searched after an earlier mismatch.
        """
        noise = bound_table.gradient_noise(traces[0], before[0])

        def bound(name: str) -> Bound:
            row = self._bound(table, name, traces[0].tensors[name], before[0])
            return replace(row, absolute=max(row.absolute, noise.get(name, 0.0)))

        amplified = self._amplified(before, *(trace.tensors for trace in traces))
        comparison = compare(*traces, bound, amplified)
        if comparison.first is not None and Mismatch(step, comparison.first).phase in ("batch", "forward", "loss"):
            return comparison, []
        sign_flips = list(find_sign_flips(self._config, *traces, before[0], before[1], step))
        if sign_flips:
            effect = sign_flip_effect(self._config, *traces, before[0])
            comparison = compare(*traces, bound, {**effect, **amplified})
        unexplained = {pre_activation(flip.layer): _unexplained(flip) for flip in sign_flips if not flip.explained}
        return Comparison(tuple(unexplained.get(result.name, result) for result in comparison.differences)), sign_flips

    def _amplified(
        self, before: Sequence[Parameters], a: Mapping[str, Array], b: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Returns b - a of each parameter, as far as an adaptive rule makes it of the slots of both sides.

        The slots have bounds of their own. It is empty if the sides' parameters differed before the step.
        """
        if not is_adaptive(self._config) or before[0] is not before[1]:
            return {}
        names = filter(is_parameter, before[0])
        with np.errstate(all="ignore"):
            return {name: adam_change(self._config, a, name) - adam_change(self._config, b, name) for name in names}

    def _take(self, step: int, results: Iterable[Difference], traces: tuple[Trace, Trace] | None = None) -> None:
        """Reports differences. Raises `MismatchFound` at the first that exceeds its bound."""
        for result in results:
            if not result.within:
                raise MismatchFound(Mismatch(step, result), traces)
            if result.bound != np.inf:
                self.report.take(bound_table.kind(result.name), step, result)

    def _from_common(self, step: int, before: Parameters) -> tuple[Trace, Trace]:
        ask_all(self._sides, "load_state", before)
        ask_all(self._sides, "step", step)
        return ask_all(self._sides, "trace", step)

    def _trace_from_common(self, step: int, states: Sequence[Parameters]) -> tuple[Trace, Trace]:
        """Compares the step from the first side's parameters, then restores each side's own."""
        traces = self._from_common(step, states[0])
        comparison, _ = self._compare(traces, (states[0], states[0]), step, self._table(1))
        self._take(step, comparison.differences, traces)
        for side, state in zip(self._sides, states, strict=True):
            side.do("load_state", state)
        return traces

    def _find_cause(self, step: int, before: Sequence[Parameters], result: Difference) -> None:
        """Compares a step that exceeds its bounds tensor by tensor, and raises `MismatchFound`.

        First it repeats the step from common parameters, with the bounds of a single step. If that agrees, it compares
        the original step too, for faults that keep a state and do not come back in a repetition. It skips this if the
        parameters had already drifted apart, because the drift would show.

        It returns if the step agrees, and either began from common parameters or is in float64. The difference is then
        rounding that has built up. A float32 step cannot tell such rounding from a small fault.
        """
        original = ask_all(self._sides, "trace", step)
        attempts: list[tuple[tuple[Trace, Trace], Sequence[Parameters], bound_table.Table]]
        attempts = [(self._from_common(step, before[0]), (before[0], before[0]), self._table(1))]
        close = Bound(relative=8 * float(np.finfo(self._config.dtype).eps))
        if all(difference(name, array, before[1][name], close).within for name, array in before[0].items()):
            attempts.append((original, before, self._table(self._steps_apart(step))))
        for traces, begin, table in attempts:
            comparison, _ = self._compare(traces, begin, step, table)
            if (first := comparison.first) is not None:
                raise MismatchFound(Mismatch(step, first), traces)
        if before[0] is before[1] or (self._config.dtype == "float64" and np.isfinite(result.absolute)):
            return
        note = (
            "from common parameters this step is within its bounds: the difference has built up over the steps before, "
            "by a fault that float32 can't tell from rounding, or because steps this large amplify rounding; --dtype "
            "float64 tells which"
        )
        raise MismatchFound(Mismatch(step, result, note), original)

    def _evaluate(self, step: int) -> None:
        a, b = ask_all(self._sides, "evaluate")
        self._compare_evaluations(step, a, b, self._table(self._steps_apart(max(step, 1))))

    def _compare_evaluations(self, step: int, a: Evaluated, b: Evaluated, table: bound_table.Table) -> None:
        self.report.correct[step] = (int(a.tensors["evaluation.correct"]), int(b.tensors["evaluation.correct"]))
        ties = list(near_ties(a, b, table))
        self.report.near_ties += [f"step {step}, test example {example}" for example in ties]
        settled = dict(b.tensors)
        if ties:
            settled["evaluation.predictions"][ties] = a.tensors["evaluation.predictions"][ties]
            right = settled["evaluation.predictions"] == b.tensors["evaluation.labels"]
            settled["evaluation.correct"] = np.array(int(right.sum()))
        self._take(step, (difference(name, array, settled[name], table[name]) for name, array in a.tensors.items()))

    def _run_freely(self, state: Parameters) -> None:
        """Compares the trainers' own epochs with the steps.

        In float64 everything must agree up to the end of the run. In float32, and after a sign flip, two runs diverge:
        the losses must agree up to the step of the flip, and the rest must be complete and finite.
        """
        a, b = (side.do("run_freely", self._steps) for side in self._sides)
        self.report.free_runs = a, b
        table, anything = self._table(self._steps), Bound(absolute=np.inf)
        comparable = self._steps if self._rebased_at is None else self._rebased_at
        steps = np.array(self.report.losses, self._config.dtype).T
        pairs = [("loss", a.losses, b.losses, anything)]
        pairs += [
            ("loss", run.losses[:comparable], losses[:comparable], table["loss"])
            for run, losses in zip((a, b), steps, strict=True)
        ]
        exact = self._config.dtype == "float64" and self._rebased_at is None
        for name in state:
            if exact:
                pairs += [(name, run.state[name], state[name], table[bound_table.kind(name)]) for run in (a, b)]
            else:
                is_count = bound_table.kind(name) == "optimizer"
                pairs.append((name, a.state[name], b.state[name], bound_table.EXACT if is_count else anything))
        self._take(self._steps, (difference(f"epochs.{name}", x, y, bound) for name, x, y, bound in pairs))
        if exact:
            self._compare_evaluations(self._steps, a.evaluated, b.evaluated, table)
        else:
            name = "evaluation.losses"
            tensors_a, tensors_b = a.evaluated.tensors, b.evaluated.tensors
            self._take(self._steps, [difference(name, tensors_a[name], tensors_b[name], anything)])


def rebases_always(config: Config) -> bool:
    """Returns whether each step begins from common parameters, and not only after a sign flip."""
    return is_adaptive(config) and config.dtype == "float32"


def _unexplained(flip: SignFlip) -> Difference:
    """Returns a sign flip that rounding does not explain as a difference that exceeds its bound."""
    absolute = abs(flip.a - flip.b)
    ulps = absolute / float(np.spacing(np.float64(max(abs(flip.a), abs(flip.b)))))
    name, index = pre_activation(flip.layer), (flip.example, flip.unit)
    return Difference(name, index, flip.a, flip.b, absolute, 1.0, ulps, flip.rounding)


def near_ties(a: Evaluated, b: Evaluated, table: bound_table.Table) -> Iterator[int]:
    """Yields the examples whose two largest logits are so close that rounding decides; exact ties have a rule."""
    predictions_a, predictions_b = (evaluated.tensors["evaluation.predictions"] for evaluated in (a, b))
    if predictions_a.shape != predictions_b.shape:
        return
    bound = table["evaluation.losses"]
    reach = 2 * max(bound.absolute, bound.relative * float(np.abs(b.tensors["evaluation.losses"]).max()))
    for example in np.flatnonzero(predictions_a != predictions_b).tolist():
        if 0 < max(a.margins[example], b.margins[example]) <= reach:
            yield example
