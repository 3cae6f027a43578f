"""What `mlp_compare.gpu_check` tries, each by the commands that users type."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlp_compare.bench import tables
from mlp_compare.comparable import require_alike
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
SEEDS, TURNS = 8, 4
CAPTURED = "--xla_gpu_enable_command_buffer=+WHILE"
"""Also whole loops become CUDA graphs."""


@dataclass(frozen=True)
class Checked:
    """`figures` are what `said` is made of, and more."""

    name: str
    outcome: Literal["passed", "failed", "measured", "left out"]
    said: str
    figures: Mapping[str, Any] = field(default_factory=dict)


class LeftOut(Exception):
    """With the reason."""


class Failed(Exception):
    """With what did, and the figures."""


Check = Callable[["Machine"], tuple[str, Mapping[str, Any]]]
"""What it found, and the figures; raises `Failed`, or `LeftOut`."""


class Machine:
    """Where the checks are made: `folder` keeps what the commands write, `flags` name the device."""

    def __init__(self, folder: Path, flags: Sequence[str], quick: bool) -> None:
        self.folder, self.flags, self.quick = folder, flags, quick
        self.device = "unknown"

    def tried(self, name: str, check: Check) -> Checked:
        try:
            said, figures = check(self)
        except LeftOut as why:
            return Checked(name, "left out", str(why))
        except (Failed, UserError) as why:
            return Checked(name, "failed", str(why))
        except Exception as error:  # of an hour's checks one must not cost the others
            return Checked(name, "failed", f"{type(error).__name__}: {error}")
        return Checked(name, "measured" if check in MEASURED else "passed", said, figures)

    def needs_gpu(self) -> None:
        if self.device == "unknown":
            raise Failed("the trainers did not run")
        if not self.device.startswith("gpu"):
            raise LeftOut(f"needs a GPU, and the trainers are on {self.device}")

    def command(
        self, module: str, *arguments: str, fine: Sequence[int] = (0,), variables: Mapping[str, str] | None = None
    ) -> str:
        """The output of `python -m module arguments`. Raises `Failed` with its last line where it ends otherwise."""
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        process = subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=self.folder, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": paths} | dict(variables or {}),
        )  # fmt: skip
        if process.returncode not in fine:
            reason = why_ended(process.returncode, process.stderr.strip() or process.stdout or "nothing was said")
            raise Failed(f"{module} {' '.join(arguments)} ended with status {process.returncode}: {reason}")
        return process.stdout

    def train(
        self, framework: str, name: str, *arguments: str, variables: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The summary of a run of so many epochs, left in the folder `name`."""
        own = [] if "--device" in arguments else self.flags
        flags = ["--visdom", "off", "--quiet", "--run-dir", name, *own, *arguments]
        self.command(TRAINERS[framework], *flags, variables=variables)
        summary: dict[str, Any] = read_json(self.folder / name / "summary.json")
        return summary

    def weights(self, name: str) -> dict[str, Any]:
        return dict(load_weights(self.folder / name / "weights.safetensors", parameter_shapes(WIDTHS)))

    def report(self, checked: Sequence[Checked]) -> str:
        """Markdown: a line for each check, then the benchmark's tables."""
        lines = [f"- {one.outcome}: {one.name}: {one.said}" for one in checked]
        text = f"# Checked on {self.device}\n\n" + "\n".join(lines) + "\n"
        benchmark = self.folder / "benchmark.json"
        if benchmark.exists():
            text += f"\n## Benchmark\n\n{tables.markdown(tables.read(benchmark))}"
        return text


def devices(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """An epoch of each: where, and by which versions."""
    summaries = {name: machine.train(name, f"{name}-device", "--epochs", "1") for name in TRAINERS}
    require_alike(summaries)
    machine.device = summaries["jax"]["device"]
    if machine.device == "cpu" and "cpu" not in machine.flags and (driver := nvidia_driver()):
        raise Failed(f"NVIDIA's driver {driver} is here, but the trainers are on the CPU; the doctor says why")
    said = [f"{name} {one['framework_version']}" for name, one in summaries.items()]
    return f"{' and '.join(said)} on {machine.device}, {summaries['jax']['precision']}", summaries


def doctor(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """The installation."""
    machine.command("mlp_workload.doctor", "--json", "doctor.json", fine=(0, 1))
    found = read_json(machine.folder / "doctor.json")
    wrong = [f"{one['name']}: {one['seen']}" for one in found["findings"] if one["state"] == "wrong"]
    if wrong:
        raise Failed("; ".join(wrong))
    return f"{len(found['findings'])} findings, nothing wrong", found


def parity(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """In float64 and float32, of both presets."""
    figures, said = {}, []
    for dtype in ("float64", "float32"):
        for preset in PRESETS:
            file = f"parity-{preset}-{dtype}.json"
            flags = ["--preset", preset, "--dtype", dtype, "--json", file, *machine.flags]
            output = machine.command(
                "mlp_compare.parity", *flags, *(["--steps", "300"] if machine.quick else []), fine=(0, 1)
            )
            found = figures[file] = read_json(machine.folder / file)
            if not found["within_bounds"]:
                raise Failed(f"{preset}, {dtype}: {output.splitlines()[-3].strip()}")
            apart = found["quantities"]["parameters"]["absolute"]
            crossings = f", {len(found['crossings'])} crossings explained" if found["crossings"] else ""
            said.append(f"{preset} {dtype} {apart:.1e}{crossings}")
    steps = found["steps_compared"]
    return f"all {steps} steps within bounds; parameters apart by at most: {'; '.join(said)}", figures


def gpu_against_cpu(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Of each framework, an epoch in float64 from the same weights."""
    machine.needs_gpu()
    figures: dict[str, float] = {}
    for preset in PRESETS:
        start = machine.folder / f"start-{preset}.safetensors"
        save_weights(start, initial_parameters(PRESETS[preset].initialization, WIDTHS, 0))
        flags = ["--preset", preset, "--dtype", "float64", "--epochs", "1", "--initial-weights", str(start)]
        for framework in TRAINERS:
            names = {device: f"{framework}-{preset}-float64-{device}" for device in ("cpu", "gpu")}
            machine.train(framework, names["gpu"], *flags)
            machine.train(framework, names["cpu"], *flags, "--device", "cpu")
            one, other = (machine.weights(name) for name in names.values())
            figures[f"{framework} {preset}"] = max(float(np.abs(one[key] - other[key]).max()) for key in one)
    said = ", ".join(f"{name} {apart:.1e}" for name, apart in figures.items())
    if not max(figures.values()) <= bound_table.DRIFT_FLOAT64:
        raise Failed(f"parameters after an epoch in float64, allowed {bound_table.DRIFT_FLOAT64:.0e}: {said}")
    return f"parameters after an epoch in float64 apart by at most: {said}", figures


def same_bytes(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Two runs of each framework with --deterministic, and two without."""
    figures = {}
    for framework in TRAINERS:
        for flags in (["--deterministic"], []):
            names = [f"{framework}-{'deterministic' if flags else 'default'}-{number}" for number in (1, 2)]
            for name in names:
                # Nothing compiled is kept: which kernels are the fastest is found anew for each run.
                machine.train(framework, name, "--epochs", "2", *flags, variables={"JAX_COMPILATION_CACHE_DIR": ""})
            one, other = ((machine.folder / name / "weights.safetensors").read_bytes() for name in names)
            figures[f"{framework}{' --deterministic' if flags else ''}"] = one == other
    differ = [name for name, same in figures.items() if not same]
    if any("--deterministic" in name for name in differ):
        raise Failed(f"two runs differ: {', '.join(differ)}")
    others = f", but not of {', '.join(differ)}" if differ else ""
    return f"two runs of each framework have the same bytes{others}", figures


def memory(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Of the GPU, the most that each framework's allocator gave out during a run."""
    machine.needs_gpu()
    figures = {
        framework: read_json(machine.folder / f"{framework}-device/summary.json")["peak_gpu_bytes"]
        for framework in TRAINERS
    }
    return ", ".join(f"{name} {(most or 0) / 2**20:.0f} MiB" for name, most in figures.items()), figures


def captured_loops(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """JAX's epochs with loops captured as CUDA graphs over those without, turn by turn."""
    machine.needs_gpu()
    seconds: dict[str, list[float]] = {"captured": [], "not": []}
    flags = os.environ.get("XLA_FLAGS", "")
    for turn in range(TURNS):
        for name in seconds if turn % 2 == 0 else reversed(seconds):
            own = f"{flags} {CAPTURED}" if name == "captured" else flags
            summary = machine.train(
                "jax", f"loops-{name}-{turn}", "--epochs", "5", variables={"XLA_FLAGS": own.strip()}
            )
            seconds[name].append(summary["train_seconds"] / 5)
    ratios = np.array(seconds["captured"]) / np.array(seconds["not"])
    said = f"captured over not {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f}, {TURNS} turns)"
    return said, seconds


def many_seeds(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """Epochs of a model per second, of several models by --seeds."""
    figures = {}
    for framework, module in TRAINERS.items():
        name = f"{framework}-seeds"
        flags = ["--seeds", str(SEEDS), "--epochs", "2", "--visdom", "off", "--quiet", "--run-dir", name]
        machine.command(module, *flags, *machine.flags)
        found = read_json(machine.folder / name / "seeds.json")
        figures[framework] = {key: found[key] for key in ("at_once", "model_epochs_per_second")}
    said = [
        f"{name} {one['model_epochs_per_second']:.2f} /s, {one['at_once']} at once" for name, one in figures.items()
    ]
    return f"{SEEDS} models: {'; '.join(said)}", figures


def speed(machine: Machine) -> tuple[str, Mapping[str, Any]]:
    """The benchmark, with all rungs that run here."""
    machine.command(
        "mlp_compare.bench", "--json", "benchmark.json", *machine.flags, *(["--quick"] if machine.quick else [])
    )
    result = tables.read(machine.folder / "benchmark.json")
    return "; ".join(f"{said}: {ratio}" for said, ratio in tables.Figures(result).ratios()), {}


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
"""In this order: those after `devices` know the device."""
MEASURED = (memory, captured_loops, many_seeds, speed)
"""Which have no bound to keep."""
