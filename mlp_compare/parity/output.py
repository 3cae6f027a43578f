"""Output of a parity check, as text and as JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mlp_compare.parity import bound_table
from mlp_compare.parity.lockstep import rebases_always
from mlp_compare.parity.result import Report
from mlp_compare.parity.self_test import FaultResult
from mlp_workload.config import Config
from mlp_workload.errors import one_line
from mlp_workload.sinks.console import Output
from twincheck.comparison import Difference

_LISTED = 10
"""Largest number of sign flips, and of drifts, on the terminal; the JSON file has all of them."""

Facts = Mapping[str, Mapping[str, Any]]
"""Framework, device and environment by side."""


def print_report(
    console: Output, config: Config, steps: int, report: Report, facts: Facts, table: bound_table.Table
) -> None:
    name_a, name_b = facts
    computed = [f"{side['framework']} on {side['device']}" for side in facts.values()]
    console.print(
        f"{' and '.join(computed)}, {config.preset} preset, {config.dataset}, {config.dtype}, seed {config.seed}"
    )
    console.print(_table(console, report, table))
    if rebases_always(config):
        console.print(f"{config.optimizer} in float32 amplifies rounding: each step began from common parameters")
    if report.sign_flips:
        console.print(
            f"ReLU sign flips: {len(report.sign_flips)}, all within rounding of 0 and their effect accounted for; "
            f"after step {report.sign_flips[0].step} each step began from common parameters"
        )
        for flip in report.sign_flips[:_LISTED]:
            console.print(f"  {flip}")
        if (more := len(report.sign_flips) - _LISTED) > 0:
            console.print(f"  and {more} more (--json has them all)")
    for drift in report.drifts[:_LISTED]:
        console.print(f"drift: {drift}; from common parameters the step agrees, and both went on from there")
    for near_tie in report.near_ties:
        console.print(f"near tie: {near_tie}: rounding chooses between the two largest logits")
    if report.correct:
        step = max(report.correct)
        correct = report.correct[step]
        console.print(f"correct on the test set after step {step}: {name_a} {correct[0]}, {name_b} {correct[1]}")
    if report.free_runs:
        ends = [int(run.evaluated.tensors["evaluation.correct"]) for run in report.free_runs]
        console.print(f"after {steps} steps by the trainers' own epochs: {name_a} {ends[0]}, {name_b} {ends[1]}")
    if report.mismatch is None:
        console.print(Text.assemble(("parity holds", "bold green"), f": {report.steps_compared} steps within bounds"))
        return
    mismatch, difference = report.mismatch, report.mismatch.difference
    where = one_line(f": step {mismatch.step}, {mismatch.phase}, {_place(difference)}")
    console.print(Text.assemble(("first mismatch", "bold red"), where))
    if difference.note:
        console.print(f"  {difference.note}")
    else:
        width = max(map(len, facts))
        console.print(f"  {name_a:{width}s}  {difference.a!r}")
        console.print(f"  {name_b:{width}s}  {difference.b!r}")
        console.print(f"  {difference.summary} ({table[bound_table.kind(difference.name)].reason})")
    if mismatch.note:
        console.print(f"  {mismatch.note}")


def _place(difference: Difference) -> str:
    return difference.name + (f"[{', '.join(map(str, difference.index))}]" if difference.index else "")


def _table(console: Output, report: Report, bounds_table: bound_table.Table) -> Table:
    wide = console.width >= 110  # columns that hold the whole table
    title = "difference with the least headroom of each quantity"
    if not wide:
        title += " (relative and ulps: --json, or a wider terminal)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("quantity", "difference", *(("relative", "ulps") if wide else ()), "at step", "where", "bound",
                 "headroom"):  # fmt: skip
        justify: Literal["left", "right"] = "left" if name in ("quantity", "at step", "where") else "right"
        table.add_column(name, justify=justify, no_wrap=name != "where", overflow="fold")
    for kind in (kind for kind in bounds_table if kind in report.worst):
        worst = report.worst[kind]
        largest = worst.difference
        bound = f"{largest.bound:.1e}"
        if largest.absolute == 0:
            blank = [""] * (4 if wide else 2)
            table.add_row(kind, "equal", *blank, bound if largest.bound else "equal", "")
            continue
        figures = [f"{largest.absolute:.1e}", *([f"{largest.relative:.1e}", f"{largest.ulps:.0f}"] if wide else [])]
        table.add_row(kind, *figures, str(worst.step), _place(largest), bound, f"{largest.headroom:.0f}x")
    return table


def print_fault_result(console: Output, result: FaultResult) -> None:
    fault = result.fault
    outcome = "caught" if result.located else "caught elsewhere" if result.caught else "not caught"
    where = f"step {fault.step}, {fault.tensor}"
    if result.mismatch is not None and not result.located:
        where = f"planted at {where}, named {result.mismatch}"
    style = "green" if result.located else "bold red"
    console.print(Text.assemble((outcome, style), f"  {fault.name} ({fault.side}): {one_line(where)}"))


def as_json(config: Config, steps: int, report: Report, facts: Facts, table: bound_table.Table) -> dict[str, Any]:
    mismatch = report.mismatch
    return {
        "config": {
            name: str(value) if name == "initial_weights" and value else value for name, value in vars(config).items()
        },
        "steps": steps,
        "steps_compared": report.steps_compared,
        "within_bounds": mismatch is None,
        "first_mismatch": mismatch
        and {
            "step": mismatch.step,
            "phase": mismatch.phase,
            **_difference(mismatch.difference, table),
            "note": mismatch.note or mismatch.difference.note,
        },
        "quantities": {
            kind: {"step": worst.step, **_difference(worst.difference, table)} for kind, worst in report.worst.items()
        },
        "sign_flips": [dataclasses.asdict(flip) for flip in report.sign_flips],
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


def _difference(difference: Difference, table: bound_table.Table) -> dict[str, Any]:
    names = ("absolute", "relative", "ulps", "bound")
    return {
        "tensor": difference.name,
        "index": difference.index,
        "values": [difference.a, difference.b],
        **{name: getattr(difference, name) for name in names},
        "reason": table[bound_table.kind(difference.name)].reason,
    }
