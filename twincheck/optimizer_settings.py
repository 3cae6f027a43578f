"""Settings in which an optax transformation may differ from a torch optimizer, each with its fix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twincheck.update_rules import History


@dataclass(frozen=True)
class Change:
    """A setting that the JAX side may have in place of torch's, and the cause that it then is."""

    cause: str
    key: str
    value: Any
    says: str
    fix: str


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

_SWITCHES: dict[str, list[Change]] = {
    "Adam": [
        Change("bias-correction", "bias_correction", False, "optax doesn't correct Adam's means for their start at 0.",
                "use optax.scale_by_adam, which does."),
        Change("nesterov", "adam_nesterov", True, "optax uses Nesterov's momentum in Adam, torch doesn't.",
                "nesterov=False."),
    ],
    "NAdam": [
        Change("nadam-schedule", "adam_nesterov", True,
                "torch's NAdam lets the momentum grow with the steps (momentum_decay); optax.nadam keeps it constant.",
                "write torch's rule as a transformation of its own; optax has none."),
    ],
    "RMSprop": [
        Change("epsilon-in-root", "eps_inside", True,
                "optax adds RMSprop's epsilon inside the square root, torch outside.", "eps_in_sqrt=False."),
        Change("momentum-order", "rate_inside", True,
                "optax.rmsprop applies the momentum to updates that the learning rate has scaled, torch before it.",
                "optax.chain(optax.scale_by_rms(...), optax.trace(momentum), optax.scale_by_learning_rate(schedule))."),
        Change("bias-correction", "rms_correction", True, "optax corrects RMSprop's mean for its start at 0.",
                "bias_correction=False."),
    ],
    "Adagrad": [
        Change("epsilon-in-root", "eps_inside", True, "optax adds Adagrad's epsilon inside the root, torch outside.",
                "use a smaller epsilon in optax; there is no option."),
    ],
}  # fmt: skip


def possible_changes(history: History, numbers: Mapping[str, Sequence[float]]) -> list[Change]:
    """Returns the changes worth trying."""
    family = {"AdamW": "Adam", "NAdam": "Adam"}.get(history.kind, history.kind)
    changes: list[Change] = []
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
            changes.append(Change(name, key, value, says, fix))
    if history.kind == "SGD":
        own = bool(history.settings["nesterov"])
        with_without = ("with", "without") if own else ("without", "with")
        says = f"torch's momentum is {with_without[0]} Nesterov's, optax's {with_without[1]}."
        changes.append(Change("nesterov", "nesterov", not own, says, f"nesterov={own}."))
    if history.settings.get("maximize"):
        changes.append(Change("sign", "maximize", False, "torch goes up the gradient (maximize=True), optax down.",
                               "optax.chain(optax.scale(-1.0), ...), or maximize=False in torch."))  # fmt: skip
    switches = _SWITCHES.get(history.kind, []) + (_SWITCHES["Adam"] if history.kind == "AdamW" else [])
    changes += switches
    if np.any(history.settings.get("weight_decay", 0.0)) or numbers.get("weight_decay"):
        decoupled = history.kind == "AdamW" or bool(history.settings.get("decoupled_weight_decay"))
        where = "behind the scaling, apart from the gradient", "in the gradient, before the scaling"
        ours, theirs = where if not decoupled else where[::-1]
        says = f"torch adds the weight decay {theirs}; optax {ours}."
        order = "optax.add_decayed_weights " + ("after" if decoupled else "before") + " the scaling in optax.chain."
        changes.append(Change("coupled-decay", "coupled", decoupled, says, f"put {order}"))
    return _clip_changes(history, numbers) + changes


def _clip_changes(history: History, numbers: Mapping[str, Sequence[float]]) -> list[Change]:
    theirs = history.clipped_at
    each = history.clipped_each_at if theirs is None else None
    changes = []
    if theirs is not None:
        changes.append(Change(
            "clip-epsilon", "clip", ("norm", theirs),
            f"torch's clip_grad_norm_ scales by {theirs:g} / (norm + 1e-6), optax by {theirs:g} / norm.",
            "none needed; optax has no option for it.",
        ))  # fmt: skip
        changes.append(Change(
            "clip-each", "clip", ("each", theirs),
            f"torch clips all gradients together to a norm of {theirs:g}; optax each parameter's by itself.",
            "use optax.clip_by_global_norm on all parameters at once.",
        ))  # fmt: skip
    if not np.array_equal(history.gradient, history.entering):
        changes.append(Change("clip", "clip", ("none", 0.0), "torch clips the gradients, optax doesn't.",
                               f"optax.chain(optax.clip_by_global_norm({theirs or each or 1.0:g}), ...)."))  # fmt: skip
    for size in dict.fromkeys([*numbers.get("max_norm", ()), *([each] if each else [])]):
        if size != theirs:
            shown = f"to a norm of {theirs:g}" if theirs else "each parameter's by itself" if each else "not at all"
            changes.append(Change("clip-each" if each else "clip", "clip", ("norm", size),
                                   f"torch clips the gradients {shown}, optax all together to a norm of {size:g}.",
                                   "clip alike on both sides."))  # fmt: skip
    for size in numbers.get("max_delta", ()):
        changes.append(Change("clip", "clip", ("value", size), f"optax clips each element at {size:g}, torch doesn't.",
                               "use optax.clip_by_global_norm for clip_grad_norm_."))  # fmt: skip
    return changes
