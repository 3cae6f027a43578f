"""What a parity check found, for people and for programs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mlp_compare.parity import bound_table
from mlp_compare.parity.result import Report
from mlp_compare.parity.self_test import Bite
from mlp_workload.config import Config
from mlp_workload.errors import one_line
from mlp_workload.sinks.console import Output
from twincheck.bounds import Bound
from twincheck.comparison import Difference

_LISTED = 10
"""Kink crossings on the terminal; the JSON file has all of them."""

_WIDE = 110
"""Columns of a terminal that hold the whole table."""

Facts = Mapping[str, Mapping[str, Any]]
"""By side: framework, device and environment."""


def print_report(
    console: Output, config: Config, steps: int, report: Report, facts: Facts, table: bound_table.Table
) -> None:
    one, other = facts
    computed = [f"{side['framework']} on {side['device']}" for side in facts.values()]
    console.print(
        f"{' and '.join(computed)}, {config.preset} preset, {config.dataset}, {config.dtype}, seed {config.seed}"
    )
    console.print(_table(console, report, table))
    _print_crossings(console, report)
    for drift in report.drifts[:_LISTED]:
        console.print(f"drift: {drift}; from common parameters the step agrees, and both went on from there")
    for near_tie in report.near_ties:
        console.print(f"near tie: {near_tie}: rounding chooses between the two largest logits")
    if report.correct:
        step = max(report.correct)
        correct = report.correct[step]
        console.print(f"correct on the test set after step {step}: {one} {correct[0]}, {other} {correct[1]}")
    if report.free_runs:
        ends = [int(run.evaluated.tensors["evaluation.correct"]) for run in report.free_runs]
        console.print(f"after {steps} steps by the trainers' own epochs: {one} {ends[0]}, {other} {ends[1]}")
    if report.departure is None:
        console.print(Text.assemble(("parity holds", "bold green"), f": {report.steps_compared} steps within bounds"))
        return
    departure, found = report.departure, report.departure.difference
    index = f"[{', '.join(map(str, found.index))}]" if found.index else ""
    console.print(
        Text.assemble(
            ("first departure", "bold red"),
            one_line(f": step {departure.step}, {departure.phase}, {found.name}{index}"),
        )
    )
    if found.note:
        console.print(f"  {found.note}")
    else:
        width = max(map(len, facts))
        console.print(f"  {one:{width}s}  {found.a!r}")
        console.print(f"  {other:{width}s}  {found.b!r}")
        console.print(f"  {found.verdict} ({_bound(table, found).reason})")
    if departure.note:
        console.print(f"  {departure.note}")


def _print_crossings(console: Output, report: Report) -> None:
    if not report.crossings:
        return
    first = report.crossings[0].step
    console.print(
        f"kink crossings: {len(report.crossings)}, all within rounding of 0 and their effect accounted for; after step "
        f"{first} each step began from common parameters"
    )
    for crossing in report.crossings[:_LISTED]:
        console.print(f"  {crossing}")
    if (more := len(report.crossings) - _LISTED) > 0:
        console.print(f"  and {more} more (--json has them all)")


def _table(console: Output, report: Report, bounds_table: bound_table.Table) -> Table:
    wide = console.width >= _WIDE
    title = "largest difference of each quantity, measured by its bound"
    if not wide:
        title += " (relative and ulps: --json, or a wider terminal)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("quantity", no_wrap=True)
    for name in ("difference", "relative", "ulps") if wide else ("difference",):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("at step", no_wrap=True)
    table.add_column("where", overflow="fold")
    for name in ("bound", "room"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind in (kind for kind in bounds_table if kind in report.worst):
        worst = report.worst[kind]
        found = worst.difference
        if found.absolute == 0:
            blank = [""] * (4 if wide else 2)
            table.add_row(kind, "equal", *blank, f"{found.bound:.1e}" if found.bound else "equal", "")
            continue
        where = f"{found.name}[{', '.join(map(str, found.index))}]" if found.index else found.name
        figures = [f"{found.absolute:.1e}", *([f"{found.relative:.1e}", f"{found.ulps:.0f}"] if wide else [])]
        table.add_row(kind, *figures, str(worst.step), where, f"{found.bound:.1e}", f"{1 / found.share:.0f}x")
    return table


def print_bite(console: Output, bite: Bite) -> None:
    """One line of `--teeth`."""
    verdict = ("caught", "green") if bite.placed else ("misplaced" if bite.caught else "not caught", "bold red")
    where = f"step {bite.fault.step}, {bite.fault.tensor}"
    if bite.departure is not None and not bite.placed:
        where = f"planted at {where}, named {bite.departure}"
    console.print(Text.assemble(verdict, f"  {bite.fault.name} ({bite.fault.side}): {one_line(where)}"))


def as_json(config: Config, steps: int, report: Report, facts: Facts, table: bound_table.Table) -> dict[str, Any]:
    """All figures. `free_runs` are the trainers' own epochs."""
    departure = report.departure
    return {
        "config": {
            name: str(value) if name == "initial_weights" and value else value for name, value in vars(config).items()
        },
        "steps": steps,
        "steps_compared": report.steps_compared,
        "within_bounds": departure is None,
        "first_departure": departure
        and {
            "step": departure.step,
            "phase": departure.phase,
            **_difference(departure.difference, table),
            "note": departure.note or departure.difference.note,
        },
        "quantities": {
            kind: {"step": worst.step, **_difference(worst.difference, table)} for kind, worst in report.worst.items()
        },
        "crossings": [dataclasses.asdict(crossing) for crossing in report.crossings],
        "near_ties": report.near_ties,
        "drifts": report.drifts,
        "test_correct": {step: dict(zip(facts, correct, strict=True)) for step, correct in report.correct.items()},
        "free_runs": report.free_runs
        and {
            framework: {
                "test_correct": int(run.evaluated.tensors["evaluation.correct"]),
                "test_loss": float(run.evaluated.tensors["evaluation.loss"]),
            }
            for framework, run in zip(facts, report.free_runs, strict=True)
        },
        "sides": facts,
    }


def _difference(found: Difference, table: bound_table.Table) -> dict[str, Any]:
    return {
        "tensor": found.name,
        "index": found.index,
        "values": [found.a, found.b],
        "absolute": found.absolute,
        "relative": found.relative,
        "ulps": found.ulps,
        "bound": found.bound,
        "reason": _bound(table, found).reason,
    }


def _bound(table: bound_table.Table, found: Difference) -> Bound:
    return table[bound_table.kind(found.name)]
