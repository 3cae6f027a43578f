"""What `mlp_compare.bench` measures, as JSON can hold it."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import Progress

from mlp_compare import floor, processes
from mlp_compare.processes import ProcessFailed, ask
from mlp_compare.rungs import CONTROL, QUICK, RUNGS
from mlp_compare.timings import ratio
from mlp_workload.config import Config
from mlp_workload.environment import describe_environment
from mlp_workload.errors import UserError
from mlp_workload.sinks.console import Output

if TYPE_CHECKING:
    from mlp_compare.bench import Bench

FORMAT = 1
CHECKED_EXAMPLES = 12_000
"""That each rung trains on in float64 before it is timed."""
NARROW = 0.02
"""Half the width of a ratio's interval, relative: rounds go on until all that matter are so narrow."""
FEWEST_ROUNDS, QUICK_ROUNDS, WHOLE_ROUNDS = 4, 3, 3
TARGET_ACCURACY = 0.85
"""Of the test set, that whole commands are timed to."""
BATCH_SIZES = (20, 50, 100, 200, 500, 1000, 2000, 5000, 20_000)
WIDTHS = (50, 100, 200, 500, 1000, 2000, 4000)
SWEPT = ("jax", "torch", "torch-hand")
_SWEPT_OPERATIONS = 2e11
"""Of one point's epoch, at most: wide networks see a part of the training set."""

Samples = dict[str, list[dict[str, Any]]]


def measure(options: "Bench", console: Output) -> dict[str, Any]:
    """All of it. Raises `UserError` where a rung trains otherwise than the rest, or on another kind of device."""
    chosen, left_out = _choose(options)
    with Progress(console=console, transient=True) as progress:
        _check(chosen, left_out, options.config, progress)
        names = [name for name in chosen if name not in left_out]
        if not names:
            raise UserError(f"nothing to time: {'; '.join(left_out.values())}")
        samples = _rounds(names, options, progress)
        extra = not options.quick
        whole = _whole(options.device, progress) if options.whole and extra else {}
        sweep = (
            _sweep([name for name in SWEPT if name in names], options.config, progress)
            if options.sweep and extra
            else []
        )
    return {
        "format": FORMAT,
        "kind": "benchmark",
        "date": datetime.now(UTC).date().isoformat(),
        "config": json.loads(options.config.to_json()),
        "first": names[0],
        "operations": floor.operations(options.config.widths(784, 10), 60_000),
        "cores": processes.CORES,
        "threads": processes.THREADS,
        "precision": "IEEE " + options.dtype,
        "environment": describe_environment(("numpy", "scipy")),
        "rungs": {name: _described(name, names[0], some) for name, some in samples.items()},
        "left_out": left_out,
        "whole": whole,
        "sweep": sweep,
    }


def _choose(options: "Bench") -> tuple[list[str], dict[str, str]]:
    """The rungs that can be timed, and why the others can't."""
    gpu = options.device != "cpu" and _has_gpu()
    chosen, left_out = [], {}
    for name in options.rungs or (QUICK if options.quick else RUNGS):
        rung = RUNGS[name]
        if rung.missing:
            left_out[name] = f"{rung.name}: {rung.missing} is not installed (pip install '.[bench]')"
        elif rung.device != "any" and (rung.device == "gpu") != gpu:
            left_out[name] = f"{rung.name}: needs a GPU" if rung.device == "gpu" else f"{rung.name}: is for the CPU"
        else:
            chosen.append(name)
    return chosen, left_out


def _has_gpu() -> bool:
    """Whether PyTorch sees one; the floor's process says which device it took."""
    config = Config(device="auto", hidden=(1,))
    return str(ask("floor-torch", config, epochs=1)["device"]) != "cpu"


def _check(names: Sequence[str], left_out: dict[str, str], config: Config, progress: Progress) -> None:
    """Trains a little in float64, each rung from the same start over the same batches, and compares the ends."""
    config = replace(config, dtype="float64")
    examples = max(CHECKED_EXAMPLES, config.batch_size)
    reference: tuple[str, dict[str, Any]] | None = None
    trained = [name for name in names if RUNGS[name].kind != "floor"]
    task = progress.add_task("", total=len(trained))
    for name in trained:
        progress.update(task, advance=1, description=f"float64 check: {name}")
        try:
            state = ask(name, config, epochs=1, examples=examples, check=True)
        except ProcessFailed as error:
            if not RUNGS[name].optional:
                raise UserError(f"{name}: {error}") from error
            left_out[name] = f"{RUNGS[name].name}: {error}"
            continue
        reference = reference or (name, state)
        apart = max(float(np.abs(np.subtract(state[key], array)).max()) for key, array in reference[1].items())
        if not apart <= RUNGS[name].apart:
            raise UserError(
                f"{name} does not train as {reference[0]} does: after {examples} examples in float64 their parameters "
                f"are {apart:.2g} apart, allowed {RUNGS[name].apart:.0e}"
            )
    progress.remove_task(task)


def _rounds(names: Sequence[str], options: "Bench", progress: Progress) -> Samples:
    """Each round starts every rung once, and the first one again; every second round backwards."""
    order = [*names, CONTROL]
    samples: Samples = {name: [] for name in order}
    most = QUICK_ROUNDS if options.quick else options.rounds
    task = progress.add_task("", total=most * len(order))
    for number in range(most):
        for name in order if number % 2 == 0 else reversed(order):
            rung = names[0] if name == CONTROL else name
            progress.update(task, advance=1, description=f"round {number + 1}: {rung}")
            try:
                samples[name].append(ask(rung, options.config, epochs=options.epochs))
            except ProcessFailed as error:
                raise UserError(f"{rung}: {error}") from error
        _require_one_device(samples)
        if number + 1 >= FEWEST_ROUNDS and _are_narrow(samples, names[0]):
            break
    progress.remove_task(task)
    return samples


def _require_one_device(samples: Samples) -> None:
    devices = {name: some[0]["device"].replace("cuda", "gpu") for name, some in samples.items()}
    if len({device.partition(" ")[0] for device in devices.values()}) > 1:
        listed = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise UserError(f"unlike devices are not compared: {listed}")


def _are_narrow(samples: Samples, first: str) -> bool:
    """Whether the first rung's ratios to the fastest of each kind, and to itself, are known well enough."""
    seconds = epoch_medians(samples)
    fastest: dict[str, str] = {}
    for name in sorted(seconds, key=lambda name: float(np.median(seconds[name]))):
        fastest.setdefault("control" if name == CONTROL else RUNGS[name].kind, name)
    return all(ratio(seconds, first, other).half_width <= NARROW for other in fastest.values() if other != first)


def epoch_medians(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[float]]:
    """Each rung's seconds for an epoch, one number a process: the median of those it timed."""
    return {name: [float(np.median(one["epoch_seconds"])) for one in some] for name, some in samples.items()}


def _described(name: str, first: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if name == CONTROL:
        return {"name": f"{RUNGS[first].name}, once more", "kind": "control", "samples": samples}
    return {"name": RUNGS[name].name, "kind": RUNGS[name].kind, "samples": samples}


def _whole(device: str, progress: Progress) -> dict[str, Any]:
    """The commands as they are typed, ten epochs of the `leaky` preset with an evaluation after each."""
    samples: Samples = {"jax, first run": [], "jax, later run": [], "torch": [], "the tutorial's program": []}
    task = progress.add_task("", total=WHOLE_ROUNDS * len(samples))
    with tempfile.TemporaryDirectory() as place:
        warm = {"JAX_COMPILATION_CACHE_DIR": f"{place}/warm", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        _time_command("jax_mlp.train", Path(place, "warming"), device, warm)
        for number in range(WHOLE_ROUNDS):
            for name in samples if number % 2 == 0 else reversed(samples):
                progress.update(task, advance=1, description=f"whole run {number + 1}: {name}")
                module = {"jax": "jax_mlp.train", "torch": "reference_torch.train"}.get(name.partition(",")[0])
                cold = warm | {"JAX_COMPILATION_CACHE_DIR": f"{place}/cold-{number}"}
                variables = {"jax, first run": cold, "jax, later run": warm}.get(name, {})
                folder = Path(place, f"{number}-{name.partition(' ')[0]}-{len(samples[name])}-{name[-9:-4]}")
                if module is None:
                    clock = time.time()
                    processes.run("reference_torch.article", "module", "--device", device)
                    samples[name].append({"total_seconds": time.time() - clock})
                else:
                    samples[name].append(_time_command(module, folder, device, variables))
    progress.remove_task(task)
    return samples


def _time_command(module: str, folder: Path, device: str, variables: Mapping[str, str]) -> dict[str, float]:
    started = time.time()
    arguments = ("--visdom", "off", "--quiet", "--device", device, "--run-dir", str(folder))
    processes.run(module, *arguments, variables=variables)
    total = time.time() - started
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    first = next(event for event in events if event["event"] == "train_losses")
    good = [
        event["time"] - started
        for event in events
        if event["event"] == "evaluated" and event["test_correct"] >= TARGET_ACCURACY * event["test_examples"]
    ]
    return {
        "ready_seconds": first["time"] - first["seconds"] - started,
        "first_epoch_done_seconds": first["time"] - started,
        **({"to_target_seconds": good[0]} if good else {}),
        "total_seconds": total,
    }


def _sweep(names: Sequence[str], config: Config, progress: Progress) -> list[dict[str, Any]]:
    """What an example costs by batch size and by width; one process each, the middle of three epochs."""
    points = [replace(config, batch_size=size) for size in BATCH_SIZES]
    points += [replace(config, hidden=(width, width)) for width in WIDTHS]
    task = progress.add_task("", total=len(points) * len(names))
    results = []
    for point in points:
        each = floor.operations(point.widths(784, 10), 1)
        affordable = int(_SWEPT_OPERATIONS / each) // point.batch_size
        examples = min(60_000, max(affordable, 2) * point.batch_size)
        for name in names:
            progress.update(task, advance=1, description=f"sweep: {name}, {point.batch_size}, {point.hidden}")
            answer = ask(name, point, epochs=3, examples=examples)
            results.append(
                {
                    "rung": name,
                    "batch_size": point.batch_size,
                    "width": point.hidden[0],
                    "examples": examples,
                    "operations_per_example": each,
                    "epoch_seconds": answer["epoch_seconds"],
                    "peak_megabytes": answer["peak_megabytes"],
                }
            )
    progress.remove_task(task)
    return results
