"""Checks of `mlp_compare.gpu_check`, each by the commands that users type."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlp_compare.bench import tables
from mlp_compare.comparable import require_comparable
from mlp_compare.parity import bound_table
from mlp_workload.config import PRESETS
from mlp_workload.data.shipped import CLASSES, PIXELS
from mlp_workload.environment.description import nvidia_driver
from mlp_workload.errors import UserError, why_ended
from mlp_workload.files import read_json
from mlp_workload.initial import initial_parameters
from mlp_workload.weights import load_weights, parameter_shapes, save_weights

TRAINERS = {"jax": "jax_mlp.train", "torch": "reference_torch.train"}
WIDTHS = (PIXELS, 200, 200, CLASSES)


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check: a `message` for the user and all `figures` behind it."""

    name: str
    outcome: Literal["passed", "failed", "measured", "left out"]
    message: str
    figures: Mapping[str, Any] = field(default_factory=dict)


class LeftOut(Exception):
    """Ends a check that cannot be made here, with the reason."""


Check = Callable[["Machine"], tuple[str, Mapping[str, Any]]]
"""Returns a message and the figures; raises `UserError` or `LeftOut`."""


class Machine:
    """Runs checks: `folder` keeps the output of the commands, `flags` name the device."""

    def __init__(self, folder: Path, flags: Sequence[str], quick: bool) -> None:
        self.folder, self.flags, self.quick = folder, flags, quick
        self.device = "unknown"

    def run(self, name: str, check: Check) -> CheckResult:
        try:
            message, figures = check(self)
        except LeftOut as reason:
            return CheckResult(name, "left out", str(reason))
        except UserError as reason:
            return CheckResult(name, "failed", str(reason))
        except Exception as error:  # one broken check must not end an hour of others
            return CheckResult(name, "failed", f"{type(error).__name__}: {error}")
        return CheckResult(name, "measured" if check in MEASURED else "passed", message, figures)

    def needs_gpu(self) -> None:
        if self.device == "unknown":
            raise UserError("the trainers did not run")
        if not self.device.startswith("gpu"):
            raise LeftOut(f"needs a GPU, and the trainers are on {self.device}")

    def command(
        self, module: str, *arguments: str, accepted: Sequence[int] = (0,), variables: Mapping[str, str] | None = None
    ) -> str:
        """Returns the output of `python -m module arguments`. Raises `UserError` if its status is not `accepted`."""
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        process = subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=self.folder, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": paths} | dict(variables or {}),
        )  # fmt: skip
        if process.returncode not in accepted:
            reason = why_ended(process.returncode, process.stderr.strip() or process.stdout or "nothing was said")
            raise UserError(f"{module} {' '.join(arguments)} ended with status {process.returncode}: {reason}")
        return process.stdout

    def train(
        self, framework: str, name: str, *arguments: str, variables: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Runs a trainer's command into the folder `name` and returns the summary of the run."""
        own = [] if "--device" in arguments else self.flags
        flags = ["--visdom", "off", "--quiet", "--run-dir", name, *own, *arguments]
        self.command(TRAINERS[framework], *flags, variables=variables)
        return dict(read_json(self.folder / name / "summary.json"))

    def report(self, results: Sequence[CheckResult]) -> str:
        """Returns Markdown: a line for each check, then the tables of the benchmark."""
        lines = [f"- {result.outcome}: {result.name}: {result.message}" for result in results]
        text = f"# Checked on {self.device}\n\n" + "\n".join(lines) + "\n"
        benchmark = self.folder / "benchmark.json"
        if benchmark.exists():
            text += f"\n## Benchmark\n\n{tables.markdown(tables.read(benchmark))}"
        return text


def devices(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Trains an epoch with each framework, and reports devices and versions."""
    summaries = {name: machine.train(name, f"{name}-device", "--epochs", "1") for name in TRAINERS}
    require_comparable(summaries)
    machine.device = summaries["jax"]["device"]
    if machine.device == "cpu" and "cpu" not in machine.flags and (driver := nvidia_driver()):
        raise UserError(f"NVIDIA's driver {driver} is here, but the trainers are on the CPU; the doctor says why")
    versions = [f"{name} {summary['framework_version']}" for name, summary in summaries.items()]
    return f"{' and '.join(versions)} on {machine.device}, {summaries['jax']['precision']}", summaries


def doctor(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    machine.command("mlp_workload.doctor", "--json", "doctor.json", accepted=(0, 1))
    report = read_json(machine.folder / "doctor.json")
    wrong = [f"{result['name']}: {result['seen']}" for result in report["findings"] if result["state"] == "wrong"]
    if wrong:
        raise UserError("; ".join(wrong))
    return f"{len(report['findings'])} results, nothing wrong", report


def parity(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Runs the parity check in float64 and float32, for both presets."""
    figures, parts = {}, []
    for dtype in ("float64", "float32"):
        for preset in PRESETS:
            file = f"parity-{preset}-{dtype}.json"
            flags = ["--preset", preset, "--dtype", dtype, "--json", file, *machine.flags]
            output = machine.command(
                "mlp_compare.parity", *flags, *(["--steps", "300"] if machine.quick else []), accepted=(0, 1)
            )
            result = figures[file] = read_json(machine.folder / file)
            if not result["within_bounds"]:
                raise UserError(f"{preset}, {dtype}: {output.splitlines()[-3].strip()}")
            difference = result["quantities"]["parameters"]["absolute"]
            flips = f", {len(result['sign_flips'])} sign flips explained" if result["sign_flips"] else ""
            parts.append(f"{preset} {dtype} {difference:.1e}{flips}")
    steps = result["steps_compared"]
    return f"all {steps} steps within bounds; parameters apart by at most: {'; '.join(parts)}", figures


def gpu_against_cpu(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Compares an epoch in float64 on the GPU with one on the CPU, from the same weights, for each framework."""
    machine.needs_gpu()
    figures: dict[str, float] = {}
    for preset in PRESETS:
        start = machine.folder / f"start-{preset}.safetensors"
        save_weights(start, initial_parameters(PRESETS[preset].initialization, WIDTHS, 0))
        flags = ["--preset", preset, "--dtype", "float64", "--epochs", "1", "--initial-weights", str(start)]
        for framework in TRAINERS:
            ends = []
            for device, own in (("cpu", ["--device", "cpu"]), ("gpu", [])):
                name = f"{framework}-{preset}-float64-{device}"
                machine.train(framework, name, *flags, *own)
                ends.append(load_weights(machine.folder / name / "weights.safetensors", parameter_shapes(WIDTHS)))
            cpu, gpu = ends
            figures[f"{framework} {preset}"] = max(float(np.abs(cpu[key] - gpu[key]).max()) for key in cpu)
    listed = ", ".join(f"{name} {difference:.1e}" for name, difference in figures.items())
    if not max(figures.values()) <= bound_table.DRIFT_FLOAT64:
        raise UserError(f"parameters after an epoch in float64, allowed {bound_table.DRIFT_FLOAT64:.0e}: {listed}")
    return f"parameters after an epoch in float64 apart by at most: {listed}", figures


def same_bytes(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Compares two runs of each framework with --deterministic, and two without."""
    figures = {}
    for framework in TRAINERS:
        for flags in (["--deterministic"], []):
            names = [f"{framework}-{'deterministic' if flags else 'default'}-{number}" for number in (1, 2)]
            for name in names:
                # Without a cache, each run chooses the fastest kernels again.
                machine.train(framework, name, "--epochs", "2", *flags, variables={"JAX_COMPILATION_CACHE_DIR": ""})
            first, second = ((machine.folder / name / "weights.safetensors").read_bytes() for name in names)
            figures[f"{framework}{' --deterministic' if flags else ''}"] = first == second
    differ = [name for name, same in figures.items() if not same]
    if any("--deterministic" in name for name in differ):
        raise UserError(f"two runs differ: {', '.join(differ)}")
    others = f", but not of {', '.join(differ)}" if differ else ""
    return f"two runs of each framework have the same bytes{others}", figures


def memory(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Reports the peak of GPU memory that each framework's allocator gave out during a run."""
    machine.needs_gpu()
    figures = {
        framework: read_json(machine.folder / f"{framework}-device/summary.json")["peak_gpu_bytes"]
        for framework in TRAINERS
    }
    return ", ".join(f"{name} {(peak or 0) / 2**20:.0f} MiB" for name, peak in figures.items()), figures


def captured_loops(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Compares JAX's epochs with loops captured as CUDA graphs and without, in turns."""
    machine.needs_gpu()
    seconds: dict[str, list[float]] = {"captured": [], "not": []}
    not_captured = os.environ.get("XLA_FLAGS", "")
    captured = f"{not_captured} --xla_gpu_enable_command_buffer=+WHILE".strip()
    for turn in range(4):
        for name in seconds if turn % 2 == 0 else reversed(seconds):
            variables = {"XLA_FLAGS": captured if name == "captured" else not_captured}
            summary = machine.train("jax", f"loops-{name}-{turn}", "--epochs", "5", variables=variables)
            seconds[name].append(summary["train_seconds"] / 5)
    ratios = np.array(seconds["captured"]) / np.array(seconds["not"])
    message = f"captured over not {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f}, 4 turns)"
    return message, seconds


def many_seeds(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Reports epochs of a model per second, for several models by --seeds."""
    figures, rates = {}, []
    for framework, module in TRAINERS.items():
        name = f"{framework}-seeds"
        flags = ["--seeds", "8", "--epochs", "2", "--visdom", "off", "--quiet", "--run-dir", name]
        machine.command(module, *flags, *machine.flags)
        seeds = read_json(machine.folder / name / "seeds.json")
        figures[framework] = {key: seeds[key] for key in ("at_once", "model_epochs_per_second")}
        rates.append(f"{framework} {seeds['model_epochs_per_second']:.2f} /s, {seeds['at_once']} at once")
    return f"8 models: {'; '.join(rates)}", figures


def speed(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Runs the benchmark with all variants that run here."""
    machine.command(
        "mlp_compare.bench", "--json", "benchmark.json", *machine.flags, *(["--quick"] if machine.quick else [])
    )
    result = tables.read(machine.folder / "benchmark.json")
    return "; ".join(f"{name}: {ratio}" for name, ratio in tables.Figures(result).ratios()), {}


CHECKS: Mapping[str, Check] = {
    "doctor": doctor,
    "devices": devices,
    "parity": parity,
    "GPU against CPU": gpu_against_cpu,
    "same bytes": same_bytes,
    "memory": memory,
    "captured loops": captured_loops,
    "many seeds": many_seeds,
    "speed": speed,
}
"""All checks in order; `devices` sets the device for those after it."""
MEASURED = (memory, captured_loops, many_seeds, speed)
"""Checks that measure and cannot fail by their result."""
