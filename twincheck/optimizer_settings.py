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
        Change("nesterov", "adam_nesterov", False, "torch uses Nesterov's momentum in Adam (NAdam), optax doesn't.",
               "optax.nadam, whose momentum is constant, where torch's grows with the steps (momentum_decay)."),
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
            if not constant:
                fix = "optax.inject_hyperparams for values that change, optax.partition for groups of parameters."
            if key == "eps_root":
                says = f"optax adds {value:g} inside Adam's square root (eps_root), torch outside only."
            elif cause == "betas" and not constant:
                name = "one-cycle"
                says = f"torch's OneCycleLR also changes the momentum; optax keeps {key} = {value:g}."
                fix = "optax.inject_hyperparams in JAX, or cycle_momentum=False in torch."
            elif key == "initial":
                says = f"the mean of squares starts at 0 in torch and at {value:g} in optax."
                fix = "initial_scale=0.0."
            elif key == "dampening":
                says, fix = f"torch dampens the momentum (dampening={shown}); optax does not.", "dampening=0 in torch."
            elif key == "lr_decay":
                says = f"torch lets the learning rate decay (lr_decay={shown}); optax keeps it."
                fix = f"the schedule lambda count: learning_rate / (1 + count * {shown})."
            elif key == "weight_decay" and value == 0:
                says = f"optax applies no weight decay, torch {shown}."
            elif key == "weight_decay" and not np.any(own):
                says = f"optax applies a weight decay of {value:g} where torch has none."
                fix = "weight_decay=0, or a mask in optax that leaves these parameters out."
            changes.append(Change(name, key, value, says, fix))
    if history.kind == "SGD":
        own = bool(history.settings["nesterov"])
        with_without = ("with", "without") if own else ("without", "with")
        says = f"torch's momentum is {with_without[0]} Nesterov's, optax's {with_without[1]}."
        changes.append(Change("nesterov", "nesterov", not own, says, f"nesterov={own}."))
    if history.settings.get("maximize"):
        changes.append(Change("sign", "maximize", False, "torch goes up the gradient (maximize=True), optax down.",
                               "optax.chain(optax.scale(-1.0), ...), or maximize=False in torch."))  # fmt: skip
    changes += _SWITCHES.get(family if history.kind == "AdamW" else history.kind, [])
    if history.kind in ("Adam", "AdamW"):
        changes += _amsgrad_changes(bool(history.settings.get("amsgrad")))
    if np.any(history.settings.get("weight_decay", 0.0)) or numbers.get("weight_decay"):
        decoupled = history.kind == "AdamW" or bool(history.settings.get("decoupled_weight_decay"))
        where = "behind the scaling, apart from the gradient", "in the gradient, before the scaling"
        ours, theirs = where if not decoupled else where[::-1]
        says = f"torch adds the weight decay {theirs}; optax {ours}."
        order = "optax.add_decayed_weights " + ("after" if decoupled else "before") + " the scaling in optax.chain."
        changes.append(Change("coupled-decay", "coupled", decoupled, says, f"put {order}"))
    return _clip_changes(history, numbers) + changes


_AMSGRAD = (
    "in place of optax.scale_by_adam or scale_by_amsgrad: "
    "optax.chain(optax.inject_hyperparams(functools.partial(optax.scale_by_amsgrad, bias_correction_nu=False))"
    "(b1=b1, b2=b2, eps=lambda count: eps * jnp.sqrt(1 - b2 ** (count + 1))), "
    "optax.scale_by_schedule(lambda count: jnp.sqrt(1 - b2 ** (count + 1))))."
)
"""torch's rule: the correction of the bias is taken out of the root."""


def _amsgrad_changes(amsgrad: bool) -> list[Change]:
    if not amsgrad:
        says = "optax uses AMSGrad, torch doesn't (amsgrad=False)."
        return [Change("amsgrad", "amsgrad", "optax", says, "use optax.adam.")]
    order = "torch keeps the largest second moment before correcting its bias, optax.amsgrad after."
    return [
        Change("amsgrad", "amsgrad", False, "torch uses AMSGrad (amsgrad=True), optax doesn't.", _AMSGRAD),
        Change("amsgrad", "amsgrad", "optax", order, _AMSGRAD),
    ]


def _clip_changes(history: History, numbers: Mapping[str, Sequence[float]]) -> list[Change]:
    """Returns the ways in which optax may clip gradients otherwise than torch does, here or nowhere."""
    norm = history.clipped_norm
    each = history.clipped_each_norm if norm is None else None
    value = history.clipped_value if norm is None and each is None else None
    right: str | None = None
    says = "torch doesn't clip the gradients"
    if norm is not None:
        says = f"torch clips all gradients together to a norm of {norm:g}"
        right = f"optax.clip_by_global_norm({norm:g})"
    elif each is not None:
        says = f"torch clips each parameter's gradient by itself to a norm of {each:g}"
        right = (
            "optax.stateless_with_tree_map"
            f"(lambda g, _: g * jnp.minimum(1.0, {each:g} / (jnp.sqrt((g**2).sum()) + 1e-6)))"
        )
    elif value is not None:
        says, right = f"torch clips each element of the gradients at {value:g}", f"optax.clip({value:g})"
    elif not np.array_equal(history.gradient, history.entering):
        says, right = "torch changes the gradients before its optimizer gets them", "the same change"
    changes = []
    if norm is not None:
        changes.append(Change(
            "clip-epsilon", "clip", ("norm", norm),
            f"torch's clip_grad_norm_ scales by {norm:g} / (norm + 1e-6), optax by {norm:g} / norm.",
            "none needed; optax has no option for it.",
        ))  # fmt: skip
        changes.append(Change(
            "clip-each", "clip", ("each", norm), f"{says}, optax each parameter's by itself.",
            f"{right} on all parameters at once.",
        ))  # fmt: skip
    if right is not None:
        changes.append(Change("clip", "clip", ("none", 0.0), f"{says}, optax doesn't.", f"optax.chain({right}, ...)."))
    norms = dict.fromkeys([*numbers.get("max_norm", ()), *([each] if each else [])])
    values = dict.fromkeys(numbers.get("max_delta", ()))
    for how, size, theirs, wrong, what in (
        *(("norm", size, norm, "optax.clip_by_global_norm", "all together to a norm of") for size in norms),
        *(("value", size, value, "optax.clip", "each element at") for size in values),
    ):
        if size != theirs:
            cause = "clip-each" if how == "norm" and each else "clip"
            fix = f"{right} in place of {wrong}({size:g})." if right else f"take out {wrong}({size:g})."
            changes.append(Change(cause, "clip", (how, size), f"{says}, optax {what} {size:g}.", fix))
    return changes
