"""Runs all checks and prints their findings."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.text import Text

from mlp_workload.cli.parse import run_command
from mlp_workload.doctor import frameworks, machine, packages, visdom_server
from mlp_workload.doctor.answer import Answer
from mlp_workload.doctor.finding import Finding
from mlp_workload.doctor.gpus import Gpus
from mlp_workload.doctor.probe import Facts
from mlp_workload.files import new_file, write_json
from mlp_workload.interface import package_of
from mlp_workload.sinks.console import Output

_STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Checks an installation and prints a line for each finding, with the fix if something is wrong.

    Each framework is tried in its own process. The exit status is 1 if something is wrong, else 0.
    """

    json: Path | None = None
    """Writes the findings, and all that the frameworks' processes answered, to this new file."""


def examine(facts: dict[str, Facts]) -> Iterator[Finding]:
    """Makes all checks; adds the answers of the frameworks' processes to `facts`."""
    yield machine.python()
    yield machine.variables()
    yield machine.memory()
    yield machine.runs()
    yield from machine.mnist()
    yield from packages.ranges()
    gpus = Gpus.find()
    yield from gpus.findings()
    for side, framework in (("jax", frameworks.JAX), ("torch", frameworks.TORCH)):
        answer = Answer.of(f"{package_of(side)}.doctor_probe")
        facts[framework.packages[0]] = answer.facts
        yield from frameworks.findings(framework, answer, gpus)
    yield from visdom_server.findings()
    yield from packages.tfds()


def main() -> None:
    run_command("python -m mlp_workload.doctor", Doctor, run)


def run(options: Doctor) -> bool:
    """Returns whether nothing is wrong. Raises `UserError` if the file can't be written."""
    console = Output()
    facts, findings = dict[str, Facts](), list[Finding]()
    with new_file("--json", options.json) as file:
        for finding in examine(facts):
            findings.append(finding)
            console.print(Text.assemble((f"{finding.state:<5}", _STYLES[finding.state]), f"  {finding}"))
        wrong = sum(finding.state == "wrong" for finding in findings)
        console.print(f"{wrong or 'nothing'} wrong, {sum(finding.state == 'note' for finding in findings)} to note")
        if file is not None:
            write_json(file, {"findings": [asdict(finding) for finding in findings], "frameworks": facts})
    return not wrong
