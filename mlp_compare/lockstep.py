"""Both frameworks through one run, step by step: what differs most, what explains it, and the first departure."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from mlp_compare import bounds
from mlp_compare.comparison import Array, Comparison, Difference, compare, difference
from mlp_compare.kinks import Crossing, effect, find_crossings
from mlp_compare.report import Departed, Departure, Report
from mlp_compare.side import Side, both
from mlp_compare.worker import Evaluated, Step
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.order import steps_per_epoch
from mlp_workload.trace import Trace, pre_activation
from mlp_workload.weights import Parameters


def check_devices(devices: Mapping[str, str]) -> None:
    """Raises `UserError`, naming both, where the frameworks' devices are not the same."""
    if len(set(devices.values())) > 1:
        found = " and ".join(f"{framework} on {device}" for framework, device in devices.items())
        raise UserError(f"unlike devices are not compared: {found}; name one with --device")


class Lockstep:
    """A check of `steps` steps of `config`, for which `sides` are asked; `trace_steps` are compared tensor by tensor.

    Until the first kink crossing the sides train on their own. From then on both begin each step from the first one's
    parameters, because two runs that have taken different gradients are two runs; each step is still compared.
    """

    def __init__(self, config: Config, dataset: Dataset, sides: Sequence[Side], steps: int) -> None:
        self._config, self._sides, self._steps = config, sides, steps
        self._epoch = steps_per_epoch(len(dataset.train), config.batch_size)
        terms = max(*config.widths(dataset.pixels, dataset.classes), min(config.batch_size, len(dataset.train)))
        self._table = partial(bounds.table, config.dtype, terms)
        self._rebased_at: int | None = None
        self.report = Report()

    def run(
        self,
        trace_steps: Collection[int],
        faults: Sequence[str | None] = (None, None),
        evaluate: bool = True,
        free_runs: bool = True,
        on_trace: Callable[[tuple[Trace, Trace]], None] = lambda traces: None,
    ) -> Iterator[int]:
        """Yields each step's number when `report` has it. The report is complete when the iteration ends."""
        try:
            for side, fault in zip(self._sides, faults, strict=True):
                side.ask("start", self._config, fault)
            states = tuple(side.answer() for side in self._sides)
            facts = both(self._sides, "facts")
            check_devices({side.framework: fact["device"] for side, fact in zip(self._sides, facts, strict=True)})
            self._check_start(states)
            pauses = {*range(0, self._steps, self._epoch), self._steps}
            if evaluate:
                self._evaluate(0)
            for step in range(1, self._steps + 1):
                if step in trace_steps:
                    on_trace(self._trace_from_common(step, states))
                if step in trace_steps or step - 1 in pauses:
                    self._ask(step)
                states = self._step(step, states, go_on=step not in pauses and step + 1 not in trace_steps)
                self.report.steps_compared = step
                if step in pauses and evaluate:
                    self._evaluate(step)
                yield step
            if free_runs:
                self._run_freely(states[0])
        except Departed as departed:
            self.report.departure, self.report.departure_traces = departed.departure, departed.traces

    def table(self) -> bounds.Table:
        """The bounds, one step from common parameters."""
        return self._table(1)

    def _steps_apart(self, step: int) -> int:
        """How many steps the sides' parameters have had to drift apart since they were common."""
        return step if self._rebased_at is None or step <= self._rebased_at else 1

    def _check_start(self, states: Sequence[Parameters]) -> None:
        for name in states[0]:
            found = difference(name, states[0][name], states[1][name], bounds.EXACT)
            if not found.within:
                raise Departed(Departure(0, found))

    def _ask(self, step: int) -> None:
        for side in self._sides:
            side.ask("step", step)

    def _step(self, step: int, before: Sequence[Parameters], go_on: bool) -> tuple[Parameters, Parameters]:
        """Compares the step that both sides were asked for; the states after it, one twice where they are common.

        Where they may `go_on`, the sides compute the next step meanwhile.
        """
        a, b = (side.answer() for side in self._sides)
        table = self._table(self._steps_apart(step))
        if (a.digest == b.digest).all() and (a.signs != b.signs).any():
            self._explain(step, before, table)
            self._rebased_at = self._rebased_at or step
            streamed: Iterable[tuple[str, Array, Array]] = ()
        else:
            streamed = _streamed(a, b)
        if self._rebased_at is not None:
            self._sides[1].do("load_state", a.state)
            b = a
        if go_on:
            self._ask(step + 1)
        for name, one, other in streamed:
            found = difference(name, one, other, _bound(table, name, one, before[0].get(name)))
            if not found.within:
                if go_on:
                    for side in self._sides:
                        side.answer()
                self._name_culprit(step, before, found)
            self.report.take(bounds.kind(name), step, found)
        return a.state, b.state

    def _explain(self, step: int, before: Sequence[Parameters], table: bounds.Table) -> None:
        """Compares a step with crossings tensor by tensor, once what they make of it is taken off."""
        traces = both(self._sides, "trace", step)
        comparison, crossings = self._compare(traces, before, step, table)
        self._take(step, comparison, traces)
        self.report.crossings += crossings

    def _compare(
        self, traces: tuple[Trace, Trace], before: Sequence[Parameters], step: int, table: bounds.Table
    ) -> tuple[Comparison, list[Crossing]]:
        """Of the crossings those that are not explained are differences out of bounds."""
        crossings = list(find_crossings(*traces, before[0], before[1], step))
        explained = effect(self._config, *traces, before[0]) if crossings else None
        after = traces[0].tensors
        comparison = compare(*traces, lambda name: _bound(table, name, after[name], before[0].get(name)), explained)
        strange = {
            pre_activation(crossing.layer): _strange(crossing) for crossing in crossings if not crossing.explained
        }
        return Comparison(tuple(strange.get(found.name, found) for found in comparison.differences)), crossings

    def _take(self, step: int, comparison: Comparison, traces: tuple[Trace, Trace]) -> None:
        for found in comparison.differences:
            if not found.within:
                raise Departed(Departure(step, found), traces)
            self.report.take(bounds.kind(found.name), step, found)

    def _from_common(self, step: int, before: Parameters) -> tuple[Trace, Trace]:
        both(self._sides, "load_state", before)
        both(self._sides, "step", step)
        return both(self._sides, "trace", step)

    def _trace_from_common(self, step: int, states: Sequence[Parameters]) -> tuple[Trace, Trace]:
        """Compares the step from one side's parameters, then puts each side's own back."""
        traces = self._from_common(step, states[0])
        comparison, _ = self._compare(traces, (states[0], states[0]), step, self._table(1))
        self._take(step, comparison, traces)
        for side, state in zip(self._sides, states, strict=True):
            side.do("load_state", state)
        return traces

    def _name_culprit(self, step: int, before: Sequence[Parameters], found: Difference) -> None:
        """Goes back to the last step that agreed and looks inside the one that does not. Always raises `Departed`.

        First from common parameters, by the bounds of a single step; then at the step as it was, for a fault that
        keeps a memory of its own and does not come back in a repetition.
        """
        own = both(self._sides, "trace", step)
        common = self._from_common(step, before[0])
        for traces, begin, table in (
            (common, (before[0], before[0]), self._table(1)),
            (own, before, self._table(self._steps_apart(step))),
        ):
            comparison, _ = self._compare(traces, begin, step, table)
            if (first := comparison.first) is not None:
                raise Departed(Departure(step, first), traces)
        note = "no tensor inside this step is out of its bound: the difference has built up over the steps before"
        raise Departed(Departure(step, found, note), own)

    def _evaluate(self, step: int) -> None:
        a, b = both(self._sides, "evaluate")
        self._compare_evaluations(step, a, b, self._table(self._steps_apart(max(step, 1))))

    def _compare_evaluations(self, step: int, a: Evaluated, b: Evaluated, table: bounds.Table) -> None:
        self.report.correct[step] = (int(a.tensors["evaluation.correct"]), int(b.tensors["evaluation.correct"]))
        ties = list(_near_ties(a, b, table))
        self.report.near_ties += [f"step {step}, test example {example}" for example in ties]
        settled = dict(b.tensors)
        if ties:
            settled["evaluation.predictions"][ties] = a.tensors["evaluation.predictions"][ties]
            settled["evaluation.correct"] = (settled["evaluation.predictions"] == b.labels).sum()
        for name, array in a.tensors.items():
            found = difference(name, array, settled[name], table[name])
            if not found.within:
                raise Departed(Departure(step, found))
            self.report.take(name, step, found)

    def _run_freely(self, state: Parameters) -> None:
        """The trainers' own epochs: in float64 they must end where the steps ended; in float32 two runs part."""
        self.report.free_runs = a, b = tuple(side.do("run_freely", self._steps) for side in self._sides)
        if self._config.dtype != "float64" or self._rebased_at is not None:
            return
        table = self._table(self._steps)
        pairs = [("loss", a.losses, b.losses, table["loss"])]
        for run in (a, b):
            pairs += [(name, run.state[name], state[name], table[bounds.kind(name)]) for name in state]
        for name, one, other, bound in pairs:
            found = difference(f"epochs.{name}", one, other, bound)
            if not found.within:
                raise Departed(Departure(self._steps, found))
            self.report.take(f"epochs.{bounds.kind(name)}", self._steps, found)
        self._compare_evaluations(self._steps, a.evaluated, b.evaluated, table)


def _streamed(a: Step, b: Step) -> Sequence[tuple[str, Array, Array]]:
    """What every step is compared by, in causal order."""
    names = sorted(a.state, key=lambda name: not name.endswith(".momentum"))
    states = [(name, a.state[name], b.state[name]) for name in names]
    return [("batch.digest", a.digest, b.digest), ("loss", a.loss, b.loss), *states]


def _bound(table: bounds.Table, name: str, after: Array, before: Array | None) -> bounds.Bound:
    """A parameter's own bound, or that of a gradient for what the step added to it, if that is wider."""
    bound = table[bounds.kind(name)]
    if before is None or bounds.kind(name) != "parameters":
        return bound
    with np.errstate(invalid="ignore", over="ignore"):
        update = float(np.abs(after - before).max())
    return replace(bound, absolute=max(bound.absolute, table["gradients"].relative * update))


def _strange(crossing: Crossing) -> Difference:
    """Of a crossing that rounding can't explain: the two values, which should be on one side of 0 or both near it."""
    apart = abs(crossing.a - crossing.b)
    spacing = float(np.spacing(np.float64(max(abs(crossing.a), abs(crossing.b)))))
    name, index = pre_activation(crossing.layer), (crossing.example, crossing.unit)
    return Difference(
        name, index, crossing.a, crossing.b, apart, 1.0, apart / spacing, min(crossing.rounding, apart / 2)
    )


def _near_ties(a: Evaluated, b: Evaluated, table: bounds.Table) -> Iterator[int]:
    """Examples whose two largest logits lie so near each other that rounding can choose; exact ties have a rule."""
    one, other = (evaluated.tensors["evaluation.predictions"] for evaluated in (a, b))
    if one.shape != other.shape:
        return
    bound = table["evaluation.losses"]
    reach = 2 * (bound.absolute + bound.relative * float(np.abs(b.tensors["evaluation.losses"]).max()))
    for example in np.flatnonzero(one != other).tolist():
        if 0 < max(a.margins[example], b.margins[example]) <= reach:
            yield example
