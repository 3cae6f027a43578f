"""All checks, one after the other, and what becomes of the findings."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from mlp_workload.cli.parse import run_command
from mlp_workload.doctor import dashboard, data, frameworks, machine, packages, places
from mlp_workload.doctor.answer import Answer
from mlp_workload.doctor.cards import Cards
from mlp_workload.doctor.finding import Finding
from mlp_workload.doctor.probe import Facts
from mlp_workload.files import new_file, write_json
from mlp_workload.interface import package_of
from mlp_workload.sinks.console import Output

_PROGRAM = "python -m mlp_workload.doctor"
_STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Looks over an installation: a line for each finding, with the mend where there is something to mend.

    Each framework is tried in a process of its own. Exit status 0 where nothing is wrong, 1 where something is.
    """

    json: Path | None = None
    """Writes the findings, and all that the frameworks' processes answered, to this new file."""


@dataclass
class Examination:
    """`facts` are what the frameworks' processes answered, as far as it went."""

    facts: dict[str, Facts] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        yield machine.python()
        yield machine.variables()
        yield machine.memory()
        yield places.runs()
        yield from data.mnist()
        yield from packages.ranges()
        cards = Cards.find()
        yield from cards.findings()
        for side, framework in (("jax", frameworks.JAX), ("torch", frameworks.TORCH)):
            answer = Answer.of(f"{package_of(side)}.doctor_probe")
            self.facts[framework.packages[0]] = answer.facts
            yield from frameworks.findings(framework, answer, cards)
        yield from dashboard.findings()
        yield from packages.tfds()


def main() -> None:
    run_command(_PROGRAM, Doctor, run)


def run(options: Doctor) -> bool:
    """Whether nothing is wrong. Raises `UserError` where the file can't be written."""
    console = Output(markup=False, highlight=False, soft_wrap=True)
    examination, findings = Examination(), list[Finding]()
    with new_file("--json", options.json) as file:
        for finding in examination.findings():
            findings.append(finding)
            console.print(Text.assemble((f"{finding.state:<5}", _STYLES[finding.state]), f"  {finding}"))
        wrong = sum(finding.state == "wrong" for finding in findings)
        console.print(f"{wrong or 'nothing'} wrong, {sum(finding.state == 'note' for finding in findings)} to note")
        if file is not None:
            write_json(file, {"findings": [one.as_json() for one in findings], "frameworks": examination.facts})
    return not wrong
