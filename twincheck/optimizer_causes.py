"""Why an update of optax differs from torch's.

Update rules are written out in NumPy, with both frameworks' options. With torch's settings they give torch's updates.
Then each setting is changed alone, and two and three together. A change is the cause if the rule with it gives optax's
updates in all steps, to float64's rounding.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twincheck.optimizer_settings import Change, possible_changes
from twincheck.recording import Array
from twincheck.report import Finding
from twincheck.update_rules import History, UpdateRecord, simulate

_TORCH_DOCS = "https://docs.pytorch.org/docs/stable/optim.html"
_OPTAX_DOCS = "https://optax.readthedocs.io/en/latest/api/optimizers.html"

STEPS_AFTER = 8
"""Steps behind the first mismatch that a cause must explain too."""

EXACT = 1e-9
"""An update is explained if it agrees to this part of its largest value.

That is far above float64's rounding of Adam's rule, and far below the effect of a setting.
"""


def numbers_in(transformation: Any) -> dict[str, list[float]]:
    """Returns the numbers that an optax transformation was made with, by the names of its arguments.

    They are read from closures. They only suggest what to try; nothing is concluded from them alone.
    """
    found: dict[str, set[float]] = {}
    seen: set[int] = set()

    def visit(value: Any, name: str) -> None:
        if isinstance(value, bool | int | float):
            found.setdefault(name, set()).add(float(value))
        elif id(value) in seen:
            return
        elif callable(value) or isinstance(value, tuple | list | dict):
            seen.add(id(value))
            if isinstance(value, dict):
                for key, part in value.items():
                    visit(part, str(key))
            elif isinstance(value, tuple | list):
                for part in value:
                    visit(part, name)
            if hasattr(value, "keywords"):  # functools.partial
                visit(value.keywords, name)
                visit(value.func, name)
            code, cells = getattr(value, "__code__", None), getattr(value, "__closure__", None)
            for variable, cell in zip(code.co_freevars if code else (), cells or (), strict=True):
                try:
                    visit(cell.cell_contents, variable)
                except ValueError:  # not filled yet
                    continue

    visit(tuple(transformation), "")
    return {name: sorted(values) for name, values in found.items()}


def explain_updates(
    records: Sequence[UpdateRecord], names: Sequence[str], numbers: Mapping[str, Sequence[float]]
) -> tuple[list[tuple[Finding, list[str]]], list[str]]:
    """Returns the causes of these parameters' mismatches, with the parameters that each explains, and what is left."""
    result: dict[tuple[str, str], tuple[Finding, list[str]]] = {}
    unexplained: list[str] = []

    def add(cause: str, says: str, fix: str, explained: Sequence[str]) -> None:
        finding = Finding(cause, says, fix, (), _EVIDENCE, (_TORCH_DOCS, _OPTAX_DOCS))
        result.setdefault((cause, says), (finding, []))[1].extend(explained)

    groups: dict[str, list[str]] = {}
    for name in names:
        parameter = records[0].parameters[name]
        if parameter.settings is None and not np.any([r.parameters[name].theirs for r in records]):
            add(
                "frozen",
                "torch doesn't train it, optax does.",
                "freeze it with optax.partition and set_to_zero.",
                [name],
            )
        elif parameter.two_biases and _is_half(records, name):
            add("two-biases", "torch has two biases that are added up, and moves both; the JAX model has one.",
                "none needed, or twice the learning rate for this bias.", [name])  # fmt: skip
        elif parameter.settings is None:
            unexplained.append(name)
        else:
            groups.setdefault(str(parameter.settings.get("kind")), []).append(name)
    for group in groups.values():
        while group:
            changes, explained = _search(records, group, numbers)
            if not changes:
                unexplained += group
                break
            for change in changes:
                says = change.says
                if change.cause == "weight-decay":
                    says += _which(records, names, explained)
                add(change.cause, says, change.fix, explained)
            group = [name for name in group if name not in explained]
    return list(result.values()), unexplained


_EVIDENCE = "torch's rule with this setting changed gives optax's updates in every step"


def _is_half(records: Sequence[UpdateRecord], name: str) -> bool:
    parameters = [record.parameters[name] for record in records]
    return all(np.allclose(p.theirs, 2 * p.ours, rtol=1e-6, atol=p.exact) for p in parameters)


def _which(records: Sequence[UpdateRecord], names: Sequence[str], explained: Sequence[str]) -> str:
    agreeing = [name for name in records[0].parameters if name not in names]
    small = all(records[0].parameters[name].torch.endswith("bias") for name in explained)
    return (
        " Only biases are concerned: a mask or parameter group differs."
        if small and agreeing
        else (" Some parameters agree: see whether a mask or parameter group differs." if agreeing else "")
    )


def _search(
    records: Sequence[UpdateRecord], names: Sequence[str], numbers: Mapping[str, Sequence[float]]
) -> tuple[list[Change], list[str]]:
    """Returns the fewest changes that explain a parameter's updates, and all parameters that they explain.

    The parameter that is out the most is explained first.
    """

    def first_out(name: str) -> int:
        apart = [np.abs(r.parameters[name].ours - r.parameters[name].theirs).max(initial=0.0) for r in records]
        return next((i for i, r in enumerate(records) if apart[i] > r.parameters[name].exact), len(records))

    kept = records[: max(min(first_out(name) for name in names) + STEPS_AFTER, 2 * STEPS_AFTER)]
    history = History(kept, names)
    base = simulate(history, {})
    if base is None or not _fits(history, base, history.theirs).all():
        return [], []
    pool = possible_changes(history, numbers)
    depth = 3 if len(kept) <= 4 * STEPS_AFTER else 2
    for size in range(1, depth + 1):
        for with_rate in (False, True):
            best: tuple[list[Change], list[str]] = [], []
            for changes in _subsets(pool, size - with_rate):
                simulated = simulate(history, {change.key: change.value for change in changes})
                if simulated is None:
                    continue
                rate = _rate(history, simulated) if with_rate else None
                if with_rate and rate is None:
                    continue
                fitted = simulated if rate is None else simulated * rate[0]
                explained = _explained(history, _fits(history, fitted, history.ours))
                if len(explained) > len(best[1]):
                    best = [*changes, *([rate[1]] if rate else [])], explained
            if best[1]:
                return best
    return [], []


def _subsets(pool: Sequence[Change], size: int) -> Iterator[tuple[Change, ...]]:
    for changes in itertools.combinations(pool, size):
        if len({change.key for change in changes}) == size:
            yield changes


def _fits(history: History, simulated: Array, updates: Array) -> Array:
    return np.asarray(np.abs(simulated - updates) <= np.maximum(EXACT * history.scale, history.exact))


def _explained(history: History, fits: Array) -> list[str]:
    return [name for name, where in history.slices() if fits[:, where].all()]


def _rate(history: History, simulated: Array) -> tuple[Array, Change] | None:
    """Returns the factor of each step between optax's updates and these, if there is one, and what it says."""
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = (simulated * history.ours).sum(1, keepdims=True) / (simulated**2).sum(1, keepdims=True)
    factor = np.nan_to_num(factor, nan=1.0, posinf=1.0, neginf=1.0)
    if not _fits(history, simulated * factor, history.ours).any():
        return None
    rates = history.settings["lr"][:, :1]
    ours = rates * factor
    fix = "give optax torch's learning rates."

    def near(a: Array, b: Array) -> bool:
        return bool(np.allclose(a, b, rtol=1e-9, atol=0.0))

    steps = len(rates)
    if near(factor, -np.ones_like(factor)):
        change = Change("sign", "lr", -1, "optax goes up the gradient: the updates have the wrong sign.",
                         "optax.scale(-learning_rate), or optax.scale_by_learning_rate.")  # fmt: skip
    elif near(factor, factor[:1]):
        says = f"the learning rate is {float(rates[0, 0]):g} in torch and {float(ours[0, 0]):g} in optax."
        change = Change("learning-rate", "lr", 0, says, fix)
    elif steps > 2 and near(ours[:-1], rates[1:]):
        fix = f"optax.join_schedules([optax.constant_schedule({float(rates[0, 0])!r}), schedule], [1])."
        change = Change("schedule-shift", "lr", 1, "optax's schedule is one step ahead of torch's.", fix)
    elif steps > 2 and near(ours[1:], rates[:-1]):
        change = Change("schedule-shift", "lr", -1, "optax's schedule is one step behind torch's.",
                         "lambda count: schedule(count + 1).")  # fmt: skip
    else:
        step = int(np.argmax(np.abs(factor - 1) > 1e-9))
        says = (
            f"the learning rates differ: in step {step} it is {float(rates[step, 0]):g} in torch "
            f"and {float(ours[step, 0]):g} in optax."
        )
        change = Change("schedule", "lr", 2, says, fix)
    return factor, change


def explain_loss(ours: float, theirs: float, sizes: Sequence[int], where: str) -> Finding:
    """Returns why losses differ at the same outputs. `sizes` are numbers that a mean may be divided by."""
    factor, evidence = ours / theirs if theirs else np.inf, "the two losses at torch's outputs"
    for size in (size for size in sizes if size > 1):
        for value, name, what in ((size, "loss-reduction", "a sum"), (1 / size, "loss-reduction-sum", "a mean")):
            if abs(factor / value - 1) < 1e-5:
                other, fix = ("a mean", "losses.mean()") if what == "a sum" else ("a sum", "losses.sum()")
                says = f"the JAX loss is {factor:g} times torch's: {what} over {size} in place of {other}. {where}"
                return Finding(name, says, fix, (), evidence)
    says = f"the losses differ at the same outputs: {theirs:.6g} in torch and {ours:.6g} in JAX. {where}"
    return Finding("loss", says, "compare the two loss functions.", (), evidence)


@dataclass(frozen=True)
class StateRecord:
    """A running statistic before and after a step, and the momentum of torch's module."""

    name: str
    momentum: float | None
    before: Array
    ours: Array
    theirs: Array


def explain_state(states: Sequence[StateRecord]) -> list[Finding]:
    """Returns why running statistics differ: the share that is kept, or the variance's divisor."""
    causes: dict[tuple[str, str, str], list[str]] = {}
    for state in states:
        for cause in _state_causes(state):
            causes.setdefault(cause, []).append(state.name)
    return [
        Finding(cause, f"{says} ({', '.join(names)})", fix, (), "fitted to the statistics of one step")
        for (cause, says, fix), names in causes.items()
    ]


def _state_causes(state: StateRecord) -> list[tuple[str, str, str]]:
    unknown = ("unknown", "running statistics differ; no known cause.", "")
    before, ours, theirs, m = (
        state.before.reshape(-1),
        state.ours.reshape(-1),
        state.theirs.reshape(-1),
        state.momentum,
    )
    if np.array_equal(before, ours):
        return [("running-statistics", "the JAX model leaves its running statistics as they were.",
                 "use_running_average=False while training.")]  # fmt: skip
    if np.array_equal(before, theirs):
        return [("running-statistics", "torch leaves its running statistics as they were, the JAX model does not.",
                 "use_running_average=True, or momentum=1.")]  # fmt: skip
    if not m:
        return [unknown]
    batch = (theirs - (1 - m) * before) / m
    if before.any():
        (kept, new), *_ = np.linalg.lstsq(np.stack([before, batch], 1), ours, rcond=None)
    else:
        new = float(batch @ ours / (batch @ batch))
        kept = 1 - new
    if np.abs(kept * before + new * batch - ours).max() > 1e-6 * np.abs(ours).max():
        return [unknown]
    found = []
    if abs(kept - (1 - m)) > 1e-6 and (before.any() or abs(new - m) > 1e-6):
        swapped = (
            " JAX's momentum is the share that is kept, torch's the share that is new." if abs(kept - m) < 1e-6 else ""
        )
        says = f"JAX keeps {kept:.6g} of the old running statistics in a step, torch {1 - m:.6g}.{swapped}"
        found.append(("batch-norm-momentum", says, f"momentum={1 - m:g} in JAX."))
    share = new / (1 - kept)
    if abs(share - 1) > 1e-6:
        count = 1 / (1 - share) if share < 1 else 0.0
        if abs(count - round(count)) > 1e-3 * count or not count:
            return [unknown]
        says = f"JAX's running variance is the batch's, torch's is multiplied by n / (n - 1), n = {count:.0f}."
        fix = "multiply the batch's variance by n / (n - 1) for the running one."
        found.append(("batch-norm-running-variance", says, fix))
    return found or [unknown]
