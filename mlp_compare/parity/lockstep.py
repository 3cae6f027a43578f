"""Two sides through one run, step by step: what differs most, what explains it, and the first departure."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from mlp_compare.comparable import require_alike
from mlp_compare.parity import bound_table
from mlp_compare.parity.gradient_noise import gradient_floors
from mlp_compare.parity.result import Departed, Departure, Report
from mlp_compare.parity.sign_flips import Crossing, effect, find_crossings
from mlp_compare.parity.worker import Evaluated, Step
from mlp_workload.batches import steps_per_epoch
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.interface import pre_activation
from mlp_workload.weights import Parameters
from twincheck.bounds import Bound
from twincheck.comparison import Array, Comparison, Difference, compare, difference
from twincheck.pipe import Side, both
from twincheck.trace import Trace


class Lockstep:
    """A check of `steps` steps of `config`, for which `sides` are asked; `trace_steps` are compared tensor by tensor.

    Until the first kink crossing the sides train on their own. From then on both begin each step from the first one's
    parameters, because two runs that have taken different gradients are two runs; each step is still compared.
    """

    def __init__(self, config: Config, dataset: Dataset, sides: Sequence[Side], steps: int) -> None:
        self._config, self._sides, self._steps = config, sides, steps
        self._epoch = steps_per_epoch(len(dataset.train), config.batch_size)
        terms = max(*config.widths(dataset.pixels, dataset.classes), min(config.batch_size, len(dataset.train)))
        self._table = partial(bound_table.table, config.dtype, terms)
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
            require_alike({side.name: fact for side, fact in zip(self._sides, facts, strict=True)})
            self._check_start(states)
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
        except Departed as departed:
            self.report.departure, self.report.departure_traces = departed.departure, departed.traces

    def table(self) -> bound_table.Table:
        """The bounds, one step from common parameters."""
        return self._table(1)

    def _pauses_after(self, step: int) -> bool:
        """At the end of each epoch and of the run, where there is something else to ask."""
        return step % self._epoch == 0 or step == self._steps

    def _steps_apart(self, step: int) -> int:
        """How many steps the sides' parameters have had to drift apart since they were common."""
        return step if self._rebased_at is None or step <= self._rebased_at else 1

    def _check_start(self, states: Sequence[Parameters]) -> None:
        a, b = (Trace(state, {"framework": side.name}) for state, side in zip(states, self._sides, strict=True))
        if (first := compare(a, b, lambda name: bound_table.EXACT).first) is not None:
            raise Departed(Departure(0, first))

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
        if go_on:
            self._ask(step + 1)
        for name, one, other in streamed:
            found = difference(name, one, other, self._bound(table, name, one, before[0]))
            if found.within:
                self.report.take(bound_table.kind(name), step, found)
                continue
            if go_on:
                for side in self._sides:
                    side.answer()
            self._name_culprit(step, before, found)
            if before[0] is not before[1]:
                self.report.drifts.append(f"step {step}, {found}")
            self._rebased_at = self._rebased_at or step
            both(self._sides, "load_state", a.state)
            if go_on:
                self._ask(step + 1)
            break
        self.report.losses.append((float(a.loss), float(b.loss)))
        return a.state, a.state if self._rebased_at is not None else b.state

    @staticmethod
    def _bound(table: bound_table.Table, name: str, after: Array, before: Parameters) -> Bound:
        """A parameter's own bound, or that of a gradient for what the step added to it, if that is wider."""
        bound = table[bound_table.kind(name)]
        if bound_table.kind(name) != "parameters":
            return bound
        with np.errstate(invalid="ignore", over="ignore"):
            update = float(np.abs(after - before[name]).max())
        return replace(bound, absolute=max(bound.absolute, table["gradients"].relative * update))

    def _explain(self, step: int, before: Sequence[Parameters], table: bound_table.Table) -> None:
        """Compares a step with crossings tensor by tensor, once what they make of it is taken off."""
        traces = both(self._sides, "trace", step)
        comparison, crossings = self._compare(traces, before, step, table)
        self._take(step, comparison, traces)
        self.report.crossings += crossings

    def _compare(
        self, traces: tuple[Trace, Trace], before: Sequence[Parameters], step: int, table: bound_table.Table
    ) -> tuple[Comparison, list[Crossing]]:
        """All tensors of a step. Of the crossings those that are not explained are differences out of bounds.

        A crossing changes nothing before the gradients: where something is out already, none is looked for.
        """
        floors = gradient_floors(traces[0], before[0])

        def bound(name: str) -> Bound:
            floored = self._bound(table, name, traces[0].tensors[name], before[0])
            return replace(floored, absolute=max(floored.absolute, floors.get(name, 0.0)))

        comparison = compare(*traces, bound)
        if comparison.first is not None and Departure(step, comparison.first).phase in ("batch", "forward", "loss"):
            return comparison, []
        crossings = list(find_crossings(self._config, *traces, before[0], before[1], step))
        if crossings:
            comparison = compare(*traces, bound, effect(self._config, *traces, before[0]))
        strange = {
            pre_activation(crossing.layer): _strange(crossing) for crossing in crossings if not crossing.explained
        }
        return Comparison(tuple(strange.get(found.name, found) for found in comparison.differences)), crossings

    def _take(self, step: int, comparison: Comparison, traces: tuple[Trace, Trace]) -> None:
        for found in comparison.differences:
            if not found.within:
                raise Departed(Departure(step, found), traces)
            self.report.take(bound_table.kind(found.name), step, found)

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
        """Goes back to the last step that agreed and looks inside the one that does not: raises `Departed`.

        First from common parameters, by the bounds of a single step. If that is clean, at the step as it was, for a
        fault that keeps a memory of its own and does not come back in a repetition; where the parameters had drifted
        apart before, it would be the drift that shows. Where nothing is found it returns if the step did begin from
        common parameters, since all its tensors say more than the few that are compared of every step, and in float64:
        a fault that is smaller than what a float64 step resolves is none, so that the difference is rounding that has
        built up. A float32 step resolves too little to say so.
        """
        own = both(self._sides, "trace", step)
        attempts: list[tuple[tuple[Trace, Trace], Sequence[Parameters], bound_table.Table]]
        attempts = [(self._from_common(step, before[0]), (before[0], before[0]), self._table(1))]
        if not self._drifted(before):
            attempts.append((own, before, self._table(self._steps_apart(step))))
        for traces, begin, table in attempts:
            comparison, _ = self._compare(traces, begin, step, table)
            if (first := comparison.first) is not None:
                raise Departed(Departure(step, first), traces)
        if before[0] is before[1] or (self._config.dtype == "float64" and np.isfinite(found.absolute)):
            return
        note = (
            "from common parameters this step is within its bounds: the difference has built up over the steps before, "
            "by a fault that float32 can't tell from rounding, or because steps this large amplify rounding; --dtype "
            "float64 tells which"
        )
        raise Departed(Departure(step, found, note), own)

    def _drifted(self, states: Sequence[Parameters]) -> bool:
        bound = Bound(relative=8 * float(np.finfo(self._config.dtype).eps))
        return any(not difference(name, states[0][name], states[1][name], bound).within for name in states[0])

    def _evaluate(self, step: int) -> None:
        a, b = both(self._sides, "evaluate")
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
        for name, array in a.tensors.items():
            found = difference(name, array, settled[name], table[name])
            if not found.within:
                raise Departed(Departure(step, found))
            self.report.take(name, step, found)

    def _run_freely(self, state: Parameters) -> None:
        """The trainers' own epochs must go where the steps went.

        In float64 to the end. In float32 and after a kink crossing two runs part: until then each loss must be that of
        the steps, and the rest complete and finite.
        """
        a, b = (side.do("run_freely", self._steps) for side in self._sides)
        self.report.free_runs = a, b
        table, anything = self._table(self._steps), Bound(absolute=np.inf)
        alike = self._steps if self._rebased_at is None else self._rebased_at - 1
        steps = np.array(self.report.losses, self._config.dtype).T
        pairs = [("loss", a.losses, b.losses, anything)]
        pairs += [
            ("loss", run.losses[:alike], losses[:alike], table["loss"])
            for run, losses in zip((a, b), steps, strict=True)
        ]
        exact = self._config.dtype == "float64" and self._rebased_at is None
        for name in state:
            if exact:
                pairs += [(name, run.state[name], state[name], table[bound_table.kind(name)]) for run in (a, b)]
            else:
                pairs.append((name, a.state[name], b.state[name], anything))
        for name, one, other, bound in pairs:
            found = difference(f"epochs.{name}", one, other, bound)
            if not found.within:
                raise Departed(Departure(self._steps, found))
            if bound is not anything:
                self.report.take(f"epochs.{bound_table.kind(name)}", self._steps, found)
        if exact:
            self._compare_evaluations(self._steps, a.evaluated, b.evaluated, table)
        else:
            ends = [run.evaluated.tensors["evaluation.losses"] for run in (a, b)]
            found = difference("evaluation.losses", ends[0], ends[1], anything)
            if not found.within:
                raise Departed(Departure(self._steps, found))


def _streamed(a: Step, b: Step) -> Sequence[tuple[str, Array, Array]]:
    """What every step is compared by, in causal order."""
    names = sorted(a.state, key=lambda name: not name.endswith(".momentum"))
    states = [(name, a.state[name], b.state[name]) for name in names]
    return [("batch.digest", a.digest, b.digest), ("loss", a.loss, b.loss), *states]


def _strange(crossing: Crossing) -> Difference:
    """Of a crossing that rounding can't explain: the two values, which should be on one side of 0 or both near it."""
    apart = abs(crossing.a - crossing.b)
    spacing = float(np.spacing(np.float64(max(abs(crossing.a), abs(crossing.b)))))
    name, index = pre_activation(crossing.layer), (crossing.example, crossing.unit)
    return Difference(
        name, index, crossing.a, crossing.b, apart, 1.0, apart / spacing, min(crossing.rounding, apart / 2)
    )


def near_ties(a: Evaluated, b: Evaluated, table: bound_table.Table) -> Iterator[int]:
    """Examples whose two largest logits lie so near each other that rounding can choose; exact ties have a rule."""
    one, other = (evaluated.tensors["evaluation.predictions"] for evaluated in (a, b))
    if one.shape != other.shape:
        return
    bound = table["evaluation.losses"]
    reach = 2 * max(bound.absolute, bound.relative * float(np.abs(b.tensors["evaluation.losses"]).max()))
    for example in np.flatnonzero(one != other).tolist():
        if 0 < max(a.margins[example], b.margins[example]) <= reach:
            yield example
