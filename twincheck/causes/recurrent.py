"""Recognises how a JAX GRU differs from torch's, by computing torch's GRU with one mistake or two."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twincheck.causes.terms import AGREES, FUNCTIONS

Array = NDArray[np.float64]

EXAMPLES = 2
"""Sequences of a batch that are computed."""


@dataclass(frozen=True)
class Rule:
    """torch's rule by default."""

    bias_in_reset: bool = True
    reset_first: bool = False
    gates: tuple[int, int] = (0, 1)
    keeps_new: bool = False
    sigmoid: str = "sigmoid"
    start: float = 0.0
    scaled: bool = False
    reverse: bool | None = None
    turned_back: bool = True


MISTAKES: Sequence[tuple[str, Mapping[str, object]]] = (
    ("gru-two-biases", {"bias_in_reset": False}),
    ("gru-reset", {"reset_first": True}),
    ("gru-gate-order", {"gates": (1, 0)}),
    ("gru-update", {"keeps_new": True}),
    ("activation-sigmoid", {"sigmoid": "hard-sigmoid"}),
    ("recurrent-start", {"start": 1.0}),
    ("embedding-unscaled", {"scaled": True}),
    ("recurrent-direction", {"reverse": False}),
    ("recurrent-direction", {"reverse": True}),
    ("recurrent-direction", {"turned_back": False}),
)
SWAPPED = "channels-permuted"
"""The two directions lie in the other order."""

CAUSES = {SWAPPED, *(cause for cause, _ in MISTAKES)}


@dataclass(frozen=True)
class Direction:
    """The weights of one direction of torch's GRU, with gates in the order r, z, n."""

    inputs: Array
    hidden: Array
    input_bias: Array
    hidden_bias: Array
    reverse: bool

    def __call__(self, x: Array, rule: Rule) -> Array:
        """Returns the states (batch, length, size) for inputs (batch, length, features)."""
        reverse = self.reverse if rule.reverse is None else rule.reverse
        sigmoid, size = FUNCTIONS[rule.sigmoid], self.hidden.shape[1]
        bias = self.hidden_bias.copy()
        hidden_new = self.hidden[2 * size :]
        given = x * x.shape[-1] ** 0.5 if rule.scaled else x
        given = given @ self.inputs.T + self.input_bias
        if not rule.bias_in_reset:
            given[..., 2 * size :] += bias[2 * size :]
            bias[2 * size :] = 0
        state = np.full((len(x), size), rule.start)
        states = []
        for t in range(x.shape[1])[:: -1 if reverse else 1]:
            products = state @ self.hidden.T + bias
            gates = [
                sigmoid(given[:, t, i * size : (i + 1) * size] + products[:, i * size : (i + 1) * size]) for i in (0, 1)
            ]
            reset, update = (gates[i] for i in rule.gates)
            if rule.reset_first:
                inner = (reset * state) @ hidden_new.T + bias[2 * size :]
            else:
                inner = reset * products[:, 2 * size :]
            new = np.tanh(given[:, t, 2 * size :] + inner)
            kept = 1 - update if rule.keeps_new else update
            state = kept * state + (1 - kept) * new
            states.append(state)
        return np.stack(states[::-1] if reverse and rule.turned_back else states, 1)


def recognise_gru(
    ours: Array, theirs: Array, x: Array, parameters: Mapping[str, Array], *, batch_first: bool
) -> tuple[str, ...]:
    """Returns the causes if `ours` is the output of torch's GRU with mistakes, and `theirs` without.

    Args:
        ours: what the JAX side computed, (batch, length, size) or twice the size for two directions.
        theirs: what torch computed, in the same layout.
        x: the inputs of torch's GRU, with the batch first or second.
        parameters: those of torch's GRU of one layer.
        batch_first: whether it is the first in torch.
    """
    if any(name.startswith("weight_ih_l1") for name in parameters) or x.ndim != 3:
        return ()
    x = np.asarray(x if batch_first else x.swapaxes(0, 1), np.float64)[:EXAMPLES]
    runs = list(directions(parameters))
    if ours.shape != theirs.shape or ours.ndim != 3 or ours.shape[-1] != len(runs) * runs[0].hidden.shape[1]:
        return ()
    parts_ours, parts_theirs = (np.split(a[:EXAMPLES], len(runs), -1) for a in (ours, theirs))
    if not all(_near(run(x, Rule()), truth) for run, truth in zip(runs, parts_theirs, strict=True)):
        return ()
    for order in (1, -1)[: len(runs)]:
        causes = [SWAPPED] if order < 0 else []
        for part, run in zip(parts_ours[::order], runs, strict=True):
            found = next((names for names, rule in _rules() if _near(run(x, rule), part)), None)
            if found is None:
                break
            causes += found
        else:
            return tuple(dict.fromkeys(causes))
    return ()


def _rules() -> Iterator[tuple[list[str], Rule]]:
    """Yields torch's rule with up to two mistakes, and their causes."""
    for count in (0, 1, 2):
        for mistakes in itertools.combinations(MISTAKES, count):
            changes = [change for _, change in mistakes]
            if len({key for change in changes for key in change}) == count:
                rule = Rule()
                for change in changes:
                    rule = replace(rule, **change)  # type: ignore[arg-type]
                yield [cause for cause, _ in mistakes], rule


def directions(parameters: Mapping[str, Array]) -> Iterator[Direction]:
    """Yields the directions of torch's GRU of one layer."""
    for suffix in ("l0", "l0_reverse"):
        if f"weight_ih_{suffix}" in parameters:
            zeros = np.zeros(len(parameters[f"weight_ih_{suffix}"]))
            inputs, hidden, input_bias, hidden_bias = (
                np.asarray(parameters.get(f"{name}_{suffix}", zeros), np.float64)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            yield Direction(inputs, hidden, input_bias, hidden_bias, suffix != "l0")


def _near(a: Array, b: Array) -> bool:
    return a.shape == b.shape and float(np.abs(a - b).max()) <= AGREES * float(np.abs(b).max())
