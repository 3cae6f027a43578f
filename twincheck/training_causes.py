"""Adds to the result of training side by side why the updates of the optimizers differ."""

import dataclasses
from collections.abc import Mapping, Sequence

from twincheck.bounds import ALLOWED_EPS, EPS
from twincheck.optimizer_causes import explain_updates
from twincheck.report import UNKNOWN, Finding
from twincheck.training_result import Difference, Training
from twincheck.update_rules import UpdateRecord


def add_causes(
    result: Training,
    records: Sequence[UpdateRecord],
    updates: Mapping[str, Difference],
    numbers: Mapping[str, Sequence[float]],
) -> None:
    """Adds a finding for each cause, and a note for one whose effect is smaller than float32's rounding.

    Args:
        result: the result so far.
        records: samples of all updates, for each step.
        updates: the updates that differ, by the names of the parameters.
        numbers: the numbers that the optax transformation was made with, by the names of its arguments.
    """
    out = {name for name, difference in updates.items() if difference.out}
    found, unexplained = explain_updates(records, sorted(updates), numbers)
    for finding, names in found:
        worst = max((updates[name] for name in names), key=lambda d: d.relative)
        harmless = worst.relative <= ALLOWED_EPS * EPS["float32"]
        size = f"{worst.relative:.1e} of the update of {worst.name} in step {worst.step}"
        where = f"({len(names)} parameter{'s' * (len(names) > 1)}, {size})"
        if harmless and not out & set(names):
            result.notes.append(f"{finding.name}: {finding.says} Less than float32's rounding. {where}")
        else:
            result.findings.append(dataclasses.replace(finding, says=f"{finding.says} {where}"))
            if result.first is None:
                result.first = min((updates[name] for name in names), key=lambda d: d.step)
    for name in unexplained:
        text = f"{updates[name]}: no known cause."
        if name in out:
            result.findings.append(Finding(UNKNOWN, text, "", ()))
        else:
            result.notes.append(f"{text} Less than float32's rounding.")
