"""Checks the whole project on one machine's GPU: `python -m mlp_compare.gpu_check --help`."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mlp_workload.cli.parse import run_command
from mlp_workload.config import Config
from mlp_workload.environment.description import describe_environment
from mlp_workload.files import clear_write_errors, empty_folder, write_atomically, write_json
from mlp_workload.sinks.console import Output


@dataclass(frozen=True, kw_only=True)
class GpuCheck:
    """Checks both trainers on this machine's GPU: the installation, parity, GPU against CPU, the same bytes from run to
    run, memory, speed by every variant, captured loops, many seeds. On a CPU it does what can be done there.

    Exit status 0: nothing failed, and what was left out is said. 1: something failed. 2: the arguments make no sense.
    """

    output: Path = Path("gpu-check")
    """Writes gpu-check.json, report.md and what the commands wrote to this new or empty folder."""
    quick: bool = False
    """Runs 300 steps of parity and a small benchmark, in minutes instead of an hour or so."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Checks on this device; auto takes a GPU if there is one."""
    gpu: int | None = None
    """Checks this one of the GPUs, counted from 0."""

    def __post_init__(self) -> None:
        Config(device=self.device, gpu=self.gpu)


def main() -> None:
    run_command("python -m mlp_compare.gpu_check", GpuCheck, run)


def run(options: GpuCheck) -> bool:
    """Returns whether nothing failed."""
    from mlp_compare.gpu_check.machine_checks import CHECKS, CheckResult, Machine

    console = Output()
    folder = empty_folder("--output", options.output)
    assert folder is not None
    folder = folder.absolute()
    with clear_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    gpu = [] if options.gpu is None else ["--gpu", str(options.gpu)]
    machine = Machine(folder, ["--device", options.device, *gpu], options.quick)
    facts = {
        "kind": "gpu_check",
        "date": datetime.now(UTC).date().isoformat(),
        "device": machine.device,
        "quick": options.quick,
        "environment": describe_environment(("numpy", "jax", "torch")),
    }
    results: list[CheckResult] = []
    with console.progress() as progress:
        task = progress.add_task("", total=len(CHECKS))
        for name, check in CHECKS.items():
            progress.update(task, description=name)
            results.append(machine.run(name, check))
            progress.advance(task)
            console.print(f"{results[-1].outcome:10} {name}: {results[-1].message}")
            facts |= {"device": machine.device, "checks": [asdict(result) for result in results]}
            write_json(folder / "gpu-check.json", facts)
            write_atomically(folder / "report.md", machine.report(results).encode())
    console.print(f"gpu-check.json and report.md are in {folder}")
    return all(result.outcome != "failed" for result in results)


if __name__ == "__main__":
    main()
