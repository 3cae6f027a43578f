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


@dataclass(frozen=True)
class _Change:
    """A setting that the JAX side may have in place of torch's, and the cause that it then is."""

    cause: str
    key: str
    value: Any
    says: str
    fix: str


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


_VALUES: dict[str, list[tuple[str, str, tuple[str, ...], tuple[float, ...]]]] = {
    # (cause, torch's setting, optax's names for it, values to try besides those that the transformation holds)
    "Adam": [
        ("weight-decay", "weight_decay", ("weight_decay",), (0.0, 1e-4, 1e-2)),
        ("betas", "b1", ("b1",), (0.9,)),
        ("betas", "b2", ("b2",), (0.999, 0.99, 0.95)),
        ("epsilon", "eps", ("eps",), (1e-8, 1e-6, 1e-7)),
        ("epsilon-in-root", "eps_root", ("eps_root", "eps"), (1e-8,)),
    ],
    "SGD": [
        ("weight-decay", "weight_decay", ("weight_decay",), (0.0, 1e-4, 1e-2)),
        ("momentum", "momentum", ("momentum", "decay"), (0.0, 0.9)),
        ("dampening", "dampening", (), (0.0,)),
    ],
    "RMSprop": [
        ("weight-decay", "weight_decay", ("weight_decay",), (0.0, 1e-4, 1e-2)),
        ("rmsprop-decay", "alpha", ("decay",), (0.9, 0.99)),
        ("epsilon", "eps", ("eps",), (1e-8,)),
        ("initial-accumulator", "initial", ("initial_scale",), (1.0,)),
        ("momentum", "momentum", ("momentum",), (0.0, 0.9)),
    ],
    "Adagrad": [
        ("weight-decay", "weight_decay", ("weight_decay",), (0.0, 1e-4)),
        ("initial-accumulator", "initial_accumulator_value", ("initial_accumulator_value",), (0.1,)),
        ("epsilon", "eps", ("eps",), (1e-7, 1e-10)),
        ("lr-decay", "lr_decay", (), (0.0,)),
    ],
}  # fmt: skip

_SWITCHES: dict[str, list[_Change]] = {
    "Adam": [
        _Change("bias-correction", "bias_correction", False, "optax doesn't correct Adam's means for their start at 0.",
                "use optax.scale_by_adam, which does."),
        _Change("nesterov", "adam_nesterov", True, "optax uses Nesterov's momentum in Adam, torch doesn't.",
                "nesterov=False."),
    ],
    "NAdam": [
        _Change("nadam-schedule", "adam_nesterov", True,
                "torch's NAdam lets the momentum grow with the steps (momentum_decay); optax.nadam keeps it constant.",
                "write torch's rule as a transformation of its own; optax has none."),
    ],
    "RMSprop": [
        _Change("epsilon-in-root", "eps_inside", True,
                "optax adds RMSprop's epsilon inside the square root, torch outside.", "eps_in_sqrt=False."),
        _Change("momentum-order", "rate_inside", True,
                "optax.rmsprop applies the momentum to updates that the learning rate has scaled, torch before it.",
                "optax.chain(optax.scale_by_rms(...), optax.trace(momentum), optax.scale_by_learning_rate(schedule))."),
        _Change("bias-correction", "rms_correction", True, "optax corrects RMSprop's mean for its start at 0.",
                "bias_correction=False."),
    ],
    "Adagrad": [
        _Change("epsilon-in-root", "eps_inside", True, "optax adds Adagrad's epsilon inside the root, torch outside.",
                "use a smaller epsilon in optax; there is no option."),
    ],
}  # fmt: skip


def _pool(history: History, numbers: Mapping[str, Sequence[float]]) -> list[_Change]:
    """Returns the changes worth trying."""
    family = {"AdamW": "Adam", "NAdam": "Adam"}.get(history.kind, history.kind)
    changes: list[_Change] = []
    for cause, key, names, usual in _VALUES.get(family, []):
        own = history.settings.get(key, 0.0)
        constant = np.ptp(own) == 0 if isinstance(own, np.ndarray) else True
        shown = f"{float(np.mean(own)):g}" if constant else "of several sizes"
        held = [number for name in names for number in numbers.get(name, ())]
        for value in dict.fromkeys([*held, *usual]):
            if np.all(own == value):
                continue
            says = f"{key} is {shown} in torch and {value:g} in optax."
            name, fix = cause, f"give optax the value {shown} for it."
            if key == "eps_root":
                says = f"optax adds {value:g} inside Adam's square root (eps_root), torch outside only."
            elif cause == "betas" and not constant:
                name = "one-cycle"
                says = f"torch's OneCycleLR also changes the momentum; optax keeps {key} = {value:g}."
                fix = "cycle_momentum=False in torch, or optax.inject_hyperparams in JAX."
            elif key == "weight_decay" and value == 0:
                says = f"optax applies no weight decay, torch {shown}."
            elif key == "weight_decay" and not np.any(own):
                says = f"optax applies a weight decay of {value:g} where torch has none."
                fix = "leave these parameters out by the mask in optax."
            changes.append(_Change(name, key, value, says, fix))
    if history.kind == "SGD":
        own = bool(history.settings["nesterov"])
        with_without = ("with", "without") if own else ("without", "with")
        says = f"torch's momentum is {with_without[0]} Nesterov's, optax's {with_without[1]}."
        changes.append(_Change("nesterov", "nesterov", not own, says, f"nesterov={own}."))
    if history.settings.get("maximize"):
        changes.append(_Change("sign", "maximize", False, "torch goes up the gradient (maximize=True), optax down.",
                               "optax.chain(optax.scale(-1.0), ...), or maximize=False in torch."))  # fmt: skip
    switches = _SWITCHES.get(history.kind, []) + (_SWITCHES["Adam"] if history.kind == "AdamW" else [])
    changes += switches
    if np.any(history.settings.get("weight_decay", 0.0)) or numbers.get("weight_decay"):
        decoupled = history.kind == "AdamW" or bool(history.settings.get("decoupled_weight_decay"))
        where = "behind the scaling, apart from the gradient", "in the gradient, before the scaling"
        ours, theirs = where if not decoupled else where[::-1]
        says = f"torch adds the weight decay {theirs}; optax {ours}."
        order = "optax.add_decayed_weights " + ("after" if decoupled else "before") + " the scaling in optax.chain."
        changes.append(_Change("coupled-decay", "coupled", decoupled, says, f"put {order}"))
    return _clip_changes(history, numbers) + changes


def _clip_changes(history: History, numbers: Mapping[str, Sequence[float]]) -> list[_Change]:
    theirs = history.clipped_at
    each = history.clipped_each_at if theirs is None else None
    changes = []
    if theirs is not None:
        changes.append(_Change(
            "clip-epsilon", "clip", ("norm", theirs),
            f"torch's clip_grad_norm_ scales by {theirs:g} / (norm + 1e-6), optax by {theirs:g} / norm.",
            "none needed; optax has no option for it.",
        ))  # fmt: skip
        changes.append(_Change(
            "clip-each", "clip", ("each", theirs),
            f"torch clips all gradients together to a norm of {theirs:g}; optax each parameter's by itself.",
            "use optax.clip_by_global_norm on all parameters at once.",
        ))  # fmt: skip
    if not np.array_equal(history.gradient, history.entering):
        changes.append(_Change("clip", "clip", ("none", 0.0), "torch clips the gradients, optax doesn't.",
                               f"optax.chain(optax.clip_by_global_norm({theirs or each or 1.0:g}), ...)."))  # fmt: skip
    for size in dict.fromkeys([*numbers.get("max_norm", ()), *([each] if each else [])]):
        if size != theirs:
            shown = f"to a norm of {theirs:g}" if theirs else "each parameter's by itself" if each else "not at all"
            changes.append(_Change("clip-each" if each else "clip", "clip", ("norm", size),
                                   f"torch clips the gradients {shown}, optax all together to a norm of {size:g}.",
                                   "clip alike on both sides."))  # fmt: skip
    for size in numbers.get("max_delta", ()):
        changes.append(_Change("clip", "clip", ("value", size), f"optax clips each element at {size:g}, torch doesn't.",
                               "use optax.clip_by_global_norm for clip_grad_norm_."))  # fmt: skip
    return changes


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
) -> tuple[list[_Change], list[str]]:
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
    pool = _pool(history, numbers)
    depth = 3 if len(kept) <= 4 * STEPS_AFTER else 2
    for size in range(1, depth + 1):
        for with_rate in (False, True):
            best: tuple[list[_Change], list[str]] = [], []
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


def _subsets(pool: Sequence[_Change], size: int) -> Iterator[tuple[_Change, ...]]:
    for changes in itertools.combinations(pool, size):
        if len({change.key for change in changes}) == size:
            yield changes


def _fits(history: History, simulated: Array, updates: Array) -> Array:
    return np.asarray(np.abs(simulated - updates) <= np.maximum(EXACT * history.scale, history.exact))


def _explained(history: History, fits: Array) -> list[str]:
    return [name for name, where in history.slices() if fits[:, where].all()]


def _rate(history: History, simulated: Array) -> tuple[Array, _Change] | None:
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
        change = _Change("sign", "lr", -1, "optax goes up the gradient: the updates have the wrong sign.",
                         "optax.scale(-learning_rate), or optax.scale_by_learning_rate.")  # fmt: skip
    elif near(factor, factor[:1]):
        says = f"the learning rate is {float(rates[0, 0]):g} in torch and {float(ours[0, 0]):g} in optax."
        change = _Change("learning-rate", "lr", 0, says, fix)
    elif steps > 2 and near(ours[:-1], rates[1:]):
        change = _Change("schedule-shift", "lr", 1, "optax's schedule is one step ahead of torch's.",
                         "optax.join_schedules, or lambda count: schedule(count - 1).")  # fmt: skip
    elif steps > 2 and near(ours[1:], rates[:-1]):
        change = _Change("schedule-shift", "lr", -1, "optax's schedule is one step behind torch's.",
                         "lambda count: schedule(count + 1).")  # fmt: skip
    else:
        step = int(np.argmax(np.abs(factor - 1) > 1e-9))
        says = (
            f"the learning rates differ: in step {step} it is {float(rates[step, 0]):g} in torch "
            f"and {float(ours[step, 0]):g} in optax."
        )
        change = _Change("schedule", "lr", 2, says, fix)
    return factor, change


def explain_loss(ours: float, theirs: float, sizes: Sequence[int], where: str) -> Finding:
    """Returns why losses differ at the same outputs. `sizes` are numbers that a mean may be divided by."""
    factor = ours / theirs if theirs else np.inf
    for size in sizes:
        for value, what in ((size, "a sum in place of a mean"), (1 / size, "a mean in place of a sum")):
            if size > 1 and abs(factor / value - 1) < 1e-5:
                says = f"the JAX loss is {factor:g} times torch's: {what} over {size}. {where}"
                return Finding(
                    "loss-scale", says, "divide alike in both losses.", (), "the two losses at torch's outputs"
                )
    says = f"the losses differ at the same outputs: {theirs:.6g} in torch and {ours:.6g} in JAX. {where}"
    return Finding("loss", says, "compare the two loss functions.", (), "the two losses at torch's outputs")


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
        found.append(("biased-variance", says, fix))
    return found or [unknown]
