"""Compares the steps of two models that are trained side by side."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from mlp_workload.errors import UserError
from twincheck.bounds import ALLOWED_EPS, ALLOWED_LOSS, EPS, ROUNDING_FLOOR
from twincheck.jax_side import cast, is_array
from twincheck.jax_training import JaxRun
from twincheck.optimizer_causes import StateRecord, explain_loss, explain_state
from twincheck.recording import Array, has_shape, leaves, map_leaves
from twincheck.report import UNKNOWN, Finding, Report
from twincheck.torch_training import TorchRun
from twincheck.training_causes import add_causes
from twincheck.training_result import Difference, Kind, Pass, Training
from twincheck.update_rules import UpdateRecord
from twincheck.weights import Weight

_SAMPLE = 64
"""Elements of each parameter whose updates are kept to find causes."""


class Compared:
    """The steps so far: what they differ in, and what is needed to say why."""

    def __init__(self, pair: Any, torch_run: TorchRun, jax_run: JaxRun, dtype: str) -> None:
        self._pair, self._torch, self._jax, self._dtype = pair, torch_run, jax_run, dtype
        self.result = Training()
        self._weights: list[Weight] = pair.weights
        self._fixed = dict(jax_run.side.variables)
        self._records: list[UpdateRecord] = []
        self._updates: dict[str, Difference] = {}
        self._states: dict[str, StateRecord] = {}
        self._loss: Finding | None = None
        self._drift: dict[str, float] = {}
        self._has_gradient: set[str] = set()
        self._not_compared: set[str] = set()
        self._confirmed = False
        self._cleared: dict[tuple[Kind, str], Difference] = {}
        self._average: dict[str, Array] | None = None
        generator = np.random.default_rng(0)
        sizes = {weight.jax: int(np.prod(jax_run.side.variables[weight.jax].shape)) for weight in self._weights}
        self._samples = {name: generator.permutation(size)[:_SAMPLE] for name, size in sizes.items()}

    def step(self, inputs: Any, targets: Any) -> None:
        with self._jax.precision("float64"):
            arrays = self._jax.arrays(inputs, "float64")
        before = self._torch.state
        computed = self._torch.run(inputs, targets, self._dtype)
        differences = self._model_pass(before, computed, inputs, targets, self._dtype)
        if self._dtype == "float32" and any(d.out for d in differences):
            exact = self._torch.run(inputs, targets, "float64")
            differences = self._model_pass(before, exact, inputs, targets, "float64")
        differences = self._confirm(differences, before, computed, inputs, arrays)
        differences += self._update(before, computed)
        if self._dtype == "float64":
            with self._jax.precision("float64"):
                own, state = self._jax.train_alone(arrays, targets), self._torch.state
                for weight in self._weights:
                    apart = _distance(weight(state), np.asarray(own[weight.jax]))
                    self._drift[weight.jax] = max(self._drift.get(weight.jax, 0.0), apart)
        else:
            self._torch.round(self._dtype)
        self.result.losses.append(computed.loss)
        self.result.steps += 1
        for difference in differences:
            worst = self.result.largest.get(difference.kind)
            if worst is None or difference.relative > worst.relative:
                self.result.largest[difference.kind] = difference
            if difference.out and self.result.first is None:
                self.result.first = difference

    def _values(self, state: Mapping[str, Array]) -> dict[str, Array]:
        return self._fixed | {weight.jax: weight(state) for weight in self._weights}

    def _difference(
        self, kind: Kind, name: str, theirs_name: str, ours: Any, theirs: Any, floor: float = 0.0
    ) -> Difference:
        scale = _largest(theirs)
        allowed = max(ALLOWED_EPS * EPS["float32"] * scale, floor)
        if scale <= floor:
            scale = floor / ROUNDING_FLOOR  # nothing but rounding, of sums of this size
        elif kind == "gradient":
            self._has_gradient.add(name)
        return Difference(self.result.steps, kind, name, theirs_name, _distance(theirs, ours), allowed, scale)

    def _model_pass(
        self, before: Mapping[str, Array], computed: Pass, inputs: Any, targets: Any, dtype: str
    ) -> list[Difference]:
        """Compares outputs, loss, gradients and running statistics, all from torch's state."""
        values = self._values(before)
        with self._jax.precision(dtype):
            arrays = self._jax.arrays(inputs, dtype)
            outputs, state, gradients, layouts = self._jax.run(values, arrays, computed, dtype)
        found, forced = [], list(outputs)
        for a, b in self._pair.outputs:
            if b in layouts and outputs[b].dtype.kind == "f":
                forced[b] = layouts[b](computed.outputs[a])
                found.append(self._difference("output", f"output {b}", f"output {a}", outputs[b], forced[b]))
        with self._jax.precision("float64"):
            loss, slopes = self._jax.loss(forced, targets)
        found.append(self._difference("loss", "the loss", "the loss", np.array(loss), np.array(computed.loss)))
        for a, b in self._pair.outputs:
            if b in layouts and (ours := slopes[b]) is not None:
                theirs = layouts[b](computed.cotangents[a])
                found.append(self._difference("loss", f"the gradient at output {b}", f"output {a}", ours, theirs))
        if self._loss is None and dtype == "float64" and any(d.out for d in found if d.kind == "loss"):
            sizes = {size for array in leaves((targets, forced), has_shape) for size in (*array.shape, int(array.size))}
            self._loss = explain_loss(loss, computed.loss, sorted(sizes), f"(step {self.result.steps})")
        largest = max(map(_largest, computed.gradients.values()), default=0.0)
        for weight in self._weights:
            theirs_g = weight.gradient(computed.gradients)
            if theirs_g is not None and weight.jax in gradients:
                name = weight.sources[0].name
                found.append(
                    self._difference(
                        "gradient", weight.jax, name, gradients[weight.jax], theirs_g, ROUNDING_FLOOR * largest
                    )
                )
            elif weight.jax in state and weight.sources[0].name in computed.buffers:
                theirs, ours = weight(computed.buffers), state[weight.jax]
                difference = self._difference("state", weight.jax, weight.sources[0].name, ours, theirs)
                found.append(difference)
                if difference.out and dtype == "float64" and weight.jax not in self._states:
                    module = self._torch.model.get_submodule(weight.sources[0].name.rpartition(".")[0])
                    momentum = getattr(module, "momentum", None)
                    self._states[weight.jax] = StateRecord(weight.jax, momentum, values[weight.jax], ours, theirs)
            elif (source := weight.sources[0].name) in computed.buffers and not np.array_equal(
                before[source], computed.buffers[source]
            ):
                self._not_compared.add(weight.jax)
        self._gradients = gradients
        return found

    def _confirm(
        self,
        differences: list[Difference],
        before: Mapping[str, Array],
        computed: Pass,
        inputs: Any,
        arrays: list[Any],
    ) -> list[Difference]:
        """Checks every place if something is out; if the check finds the models the same, so is the step.

        Nothing is checked again after a mismatch, nor for differences that are no larger than those cleared before.
        """
        out: dict[tuple[Kind, str], Difference] = {
            (d.kind, d.name): d for d in differences if d.out and d.kind in ("output", "gradient")
        }
        if not out or self._confirmed:
            return differences
        larger = {
            key: d for key, d in out.items() if key not in self._cleared or d.relative > self._cleared[key].relative
        }
        if larger:
            given = iter(arrays)
            side = dataclasses.replace(
                self._jax.side,
                variables=self._values(before),
                inputs=map_leaves(lambda _: np.asarray(next(given)), self._jax.side.inputs, is_array),
            )
            torch_side = self._pair.torch.at(self._torch.model, inputs)
            report: Report = self._pair.at(torch_side, side, computed.cotangents).check()
            if not report.same:
                self._confirmed = True
                says = f"step {self.result.steps}: {report.verdict}."
                self.result.findings += report.findings or [Finding(UNKNOWN, says, "", tuple(report.unexplained))]
                return differences
            self._cleared |= larger
            self.result.notes += [note for note in report.notes if note not in self.result.notes]
        return [dataclasses.replace(d, allowed=np.inf) if (d.kind, d.name) in out else d for d in differences]

    def _update(self, before: Mapping[str, Array], computed: Pass) -> list[Difference]:
        """Compares what the two optimizers add to torch's parameters, given torch's gradients."""
        entering, settings, average = self._torch.update(computed)
        after = self._torch.state
        theirs_all = computed.gradients | {
            name: np.zeros_like(array)
            for name, array in before.items()
            if name in self._pair.torch.trainable and name not in computed.gradients
        }
        given = {weight.jax: weight.gradient(theirs_all) for weight in self._weights}
        fed = {name: given.get(name) for name in self._jax.side.trainable}
        values = self._values(before)
        with self._jax.precision("float64"):
            gradients = {n: cast(self._gradients[n] if g is None else g, "float64") for n, g in fed.items()}
            updates, low = self._jax.update(
                gradients, self._jax.split({n: cast(a, "float64") for n, a in values.items()})[0]
            )
        found: list[Difference] = []
        total = float(np.sqrt(sum(float((g**2).sum()) for g in map(np.float64, computed.gradients.values()))))
        record = UpdateRecord(total)
        for weight in self._weights:
            name, source = weight.jax, weight.sources[0].name
            if name not in updates:
                continue
            ours, theirs = updates[name], weight(after) - weight(before)
            scale = _largest(theirs)
            largest, parameter = max(scale, _largest(ours)), _largest(weight(before))
            rounded = _distance(ours, low[name])
            loss = max(rounded if np.isfinite(rounded) else 0.0, EPS["float32"] * largest)
            distance = _distance(ours, theirs)
            exact = ALLOWED_LOSS * EPS["float64"] * (1e2 * largest + parameter)
            if scale <= exact:
                scale = max(scale, parameter)  # nothing but rounding, of a parameter of this size
            allowed = max(ALLOWED_LOSS * loss, exact)
            difference = Difference(self.result.steps, "update", name, source, distance, allowed, scale)
            found.append(difference)
            if distance > exact and (name not in self._updates or (difference.out and not self._updates[name].out)):
                self._updates[name] = difference
            chosen = self._samples[name]
            raw = given[name]
            reached = weight.gradient(entering)
            raw = np.zeros(ours.shape) if raw is None else raw
            record.add(
                name, source, settings.get(source), exact, weight.added,
                [
                    array.reshape(-1)[chosen]
                    for array in (weight(before), raw, raw if reached is None else reached, theirs, ours)
                ],
                float(np.sqrt((np.float64(raw) ** 2).sum())),
            )  # fmt: skip
        self._records.append(record)
        return found + self._averages(before, after, average)

    def _averages(
        self, before: Mapping[str, Array], after: Mapping[str, Array], average: Mapping[str, Array] | None
    ) -> list[Difference]:
        if average is None:
            return []
        if self._jax.average is None:
            raise UserError(
                "torch_optimizer's function returns a module, the average of the weights: give "
                "jax_average=lambda average, parameters: ..., or return nothing"
            )
        weights = [w for w in self._weights if all(source.name in average for source in w.sources)]
        if not weights:
            raise UserError("the module that torch_optimizer's function returns must have the model's parameters")
        previous = self._average or {w.jax: w(before) for w in weights}
        self._average = {w.jax: w(average) for w in weights}
        with self._jax.precision("float64"):
            ours = self._jax.average(
                {n: jnp.asarray(a) for n, a in previous.items()}, {w.jax: jnp.asarray(w(after)) for w in weights}
            )
        if not isinstance(ours, Mapping) or not {w.jax for w in weights} <= ours.keys():
            raise UserError("jax_average must return the new average of all parameters, a dict by their names")
        return [
            self._difference("average", w.jax, w.sources[0].name, np.asarray(ours[w.jax]), self._average[w.jax])
            for w in weights
        ]

    def explain(self, numbers: Mapping[str, Sequence[float]]) -> None:
        """Says why the losses, running statistics and updates differ."""
        if self._jax.average is not None and self._average is None:
            raise UserError("jax_average is given, but torch has no average: torch_optimizer's function must return it")
        frozen = {w.jax for w in self._weights if not any(s.name in self._pair.torch.trainable for s in w.sources)}
        rounding = self._jax.side.trainable - self._has_gradient - frozen
        if self._drift:
            self.result.drift = max((d for name, d in self._drift.items() if name not in rounding), default=0.0)
        for name in sorted(rounding & self._drift.keys()):
            if drift := self._drift[name]:
                text = f"{name}: its gradient is 0 but for rounding. An optimizer such as Adam makes steps of that"
                self.result.notes.append(f"{text}, and it drifts by up to {drift:.1e}.")
        for kind in ("output", "gradient"):
            if cleared := [d for d in self._cleared.values() if d.kind == kind]:
                more = f", and {len(cleared) - 1} more" if len(cleared) > 1 else ""
                worst = max(cleared, key=lambda d: d.relative)
                self.result.notes.append(f"{worst}{more}: a check of every place finds the models the same there.")
        if self._not_compared:
            text = f"running statistics of {self._jax.side.framework} are not compared"
            self.result.notes.append(f"{text}: {', '.join(sorted(self._not_compared))}")
        self.result.findings += [self._loss] if self._loss else []
        self.result.findings += explain_state(list(self._states.values()))
        add_causes(self.result, self._records, self._updates, numbers)


def _distance(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))  # infinities and NaN too
        apart = np.where(same, 0.0, np.abs(np.float64(a) - np.float64(b)))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _largest(array: Array) -> float:
    """Returns the largest finite absolute value."""
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
