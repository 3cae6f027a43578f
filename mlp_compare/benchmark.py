"""What `mlp_compare.bench` measures, as JSON can hold it."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
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
from mlp_workload.initial import initial_parameters
from mlp_workload.sinks.console import Output
from mlp_workload.weights import Parameters, load_weights, parameter_shapes, save_weights

if TYPE_CHECKING:
    from mlp_compare.bench import Bench

FORMAT = 1
CHECKED_EXAMPLES = 12_000
"""That each rung trains on in float64 before it is timed."""
NARROW = 0.02
"""Half the width of a ratio's interval, relative: rounds go on until all that matter are so narrow."""
FEWEST_ROUNDS, QUICK_ROUNDS, QUICK_EPOCHS = 6, 4, 3
WHOLE_ROUNDS, WHOLE_EPOCHS = 4, 10
TARGET_ACCURACY = 0.85
"""Of the test set, that training is timed to."""
JAX_FIRST, JAX_LATER = "python -m jax_mlp.train, the first time", "python -m jax_mlp.train, later"
TORCH, ARTICLE = "python -m reference_torch.train", "python -m reference_torch.article module"
JAX_GIVEN, TORCH_GIVEN = "JAX, from given weights", "PyTorch, from given weights"
"""Whole commands."""
BATCH_SIZES = (20, 50, 100, 200, 500, 1000, 2000, 5000, 20_000)
WIDTHS = (50, 100, 200, 500, 1000, 2000, 4000)
SWEPT = ("jax", "torch", "torch-hand")
_SWEPT_OPERATIONS = 2e11
"""Of one point's epoch, at most: wide networks see a part of the training set."""

Samples = dict[str, list[dict[str, Any]]]


def measure(options: "Bench", console: Output) -> Iterator[dict[str, Any]]:
    """The rungs; then with them the whole commands; then the sweep too: a late failure costs nothing that is measured.

    Raises `UserError` where a rung trains otherwise than the rest, on another kind of device, or not at all.
    """
    with Progress(console=console, transient=True) as progress:
        chosen, left_out = _choose(options)
        with tempfile.TemporaryDirectory() as folder:
            _check(chosen, left_out, options.config, Path(folder), progress)
        names = [name for name in chosen if name not in left_out]
        if not names:
            raise UserError(f"nothing to time: {'; '.join(left_out.values())}")
        samples = _rounds(names, left_out, options, progress)
        result = {
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
            "whole": {},
            "sweep": [],
        }
        yield result
        if options.whole and not options.quick:
            yield (result := result | {"whole": _whole(options.device, progress)})
        if options.sweep and not options.quick:
            swept = [name for name in SWEPT if name in names]
            yield result | {"sweep": _sweep(swept, options.config, progress)}


def _choose(options: "Bench") -> tuple[list[str], dict[str, str]]:
    """The rungs that can be timed, and why the others can't."""
    gpu = options.device != "cpu" and find_spec("torch") is not None and _torch_sees_a_gpu()
    chosen, left_out = [], {}
    for name in options.rungs or (QUICK if options.quick else RUNGS):
        rung = RUNGS[name]
        if rung.missing:
            left_out[name] = f"{rung.name}: {rung.missing} is not installed (pip install '.[bench]')"
        elif rung.device != "any" and (rung.device == "gpu") != gpu:
            left_out[name] = f"{rung.name}: needs a GPU" if rung.device == "gpu" else f"{rung.name}: is for the CPU"
        elif rung.kind == "floor" and 60_000 % options.batch_size:
            left_out[name] = f"{rung.name}: batches of {options.batch_size} do not divide the set"
        else:
            chosen.append(name)
    return chosen, left_out


def _torch_sees_a_gpu() -> bool:
    return str(ask("floor-torch", Config(hidden=(1,)), epochs=1)["device"]) != "cpu"


def _check(names: Sequence[str], left_out: dict[str, str], config: Config, folder: Path, progress: Progress) -> None:
    """Trains a little in float64, each rung from the same start over the same batches, and compares the ends."""
    config = replace(config, dtype="float64")
    examples = max(CHECKED_EXAMPLES, config.batch_size)
    ends: dict[str, Parameters] = {}
    trained = [name for name in names if RUNGS[name].kind != "floor"]
    task = progress.add_task("", total=len(trained))
    for name in trained:
        progress.update(task, advance=1, description=f"float64 check: {name}")
        try:
            ask(name, config, epochs=1, examples=examples, state=str(folder / name))
        except ProcessFailed as error:
            if not RUNGS[name].optional:
                raise
            left_out[name] = str(error)
            continue
        ends[name] = load_weights(folder / name, parameter_shapes(config.widths(784, 10)))
        first = next(iter(ends))
        allowed = max(RUNGS[name].apart, RUNGS[first].apart)
        apart = float(np.max([np.abs(ends[name][key] - array).max() for key, array in ends[first].items()]))
        if not apart <= allowed:
            raise UserError(
                f"{name} does not train as {first} does: after {examples} examples in float64 their parameters are "
                f"{apart:.2g} apart, allowed {allowed:.0e}"
            )
    progress.remove_task(task)


def _rounds(names: Sequence[str], left_out: dict[str, str], options: "Bench", progress: Progress) -> Samples:
    """Each round starts every rung once, and the first one again.

    Every second round goes backwards, and each pair begins with another rung, so that all have all neighbours.
    """
    order = [*names, CONTROL]
    samples: Samples = {name: [] for name in order}
    most = QUICK_ROUNDS if options.quick else options.rounds
    epochs = QUICK_EPOCHS if options.quick else options.epochs
    task = progress.add_task("", total=most * len(order))
    for number in range(most):
        turn = number // 2 % len(order)
        rotated = order[turn:] + order[:turn]
        for name in rotated if number % 2 == 0 else rotated[::-1]:
            rung = names[0] if name == CONTROL else name
            progress.update(task, advance=1, description=f"round {number + 1}: {rung}")
            if rung in left_out:
                continue
            try:
                samples[name].append(ask(rung, options.config, epochs=epochs))
            except ProcessFailed as error:
                if not RUNGS[rung].optional:
                    raise
                left_out[rung] = str(error)
        samples = {name: some for name, some in samples.items() if name not in left_out}
        order = list(samples)
        _require_one_device(samples)
        if number % 2 == 1 and number + 1 >= FEWEST_ROUNDS and _are_narrow(samples, names[0]):
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


def _described(name: str, first: str, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the processes have in common once, then the samples in the order of the rounds."""
    rung = RUNGS[first if name == CONTROL else name]
    common = {key: samples[0][key] for key in ("device", "environment")}
    assert all(sample[key] == value for sample in samples for key, value in common.items())
    return {
        "name": f"{rung.name}, once more" if name == CONTROL else rung.name,
        "kind": "control" if name == CONTROL else rung.kind,
        **common,
        "samples": [{key: value for key, value in sample.items() if key not in common} for sample in samples],
    }


def _whole(device: str, progress: Progress) -> dict[str, Any]:
    """Commands from start to end: as they are typed, with a cache of programs and without, and to an accuracy.

    For the latter both start from the same weights, and without the last activation, which may cost a class.
    """
    with tempfile.TemporaryDirectory() as place:
        start = Path(place, "start.safetensors")
        shapes = Config().widths(784, 10)
        save_weights(start, {k: v.astype(np.float32) for k, v in initial_parameters("torch_linear", shapes, 0).items()})
        common = ["--last-activation", "none", "--initial-weights", str(start)]
        commands = {
            JAX_FIRST: ("jax_mlp.train", []),
            JAX_LATER: ("jax_mlp.train", []),
            TORCH: ("reference_torch.train", []),
            JAX_GIVEN: ("jax_mlp.train", common),
            TORCH_GIVEN: ("reference_torch.train", common),
            ARTICLE: ("reference_torch.article", []),
        }
        samples: Samples = {name: [] for name in commands}
        task = progress.add_task("", total=WHOLE_ROUNDS * len(commands))
        for number in range(-1, WHOLE_ROUNDS):  # before the first one, what is kept is made
            for name in list(commands) if number % 2 == 0 else reversed(commands):
                if number < 0 and "jax_mlp" not in commands[name][0]:
                    continue
                progress.update(task, advance=number >= 0, description=f"whole commands, round {number + 1}: {name}")
                cache = Path(place, f"cache-{number}" if name == JAX_FIRST else "cache")
                module, flags = commands[name]
                folder = Path(place, f"run-{number}-{len(list(Path(place).iterdir()))}")
                sample = _time_command(name, module, [*flags, "--device", device], folder, cache)
                if number >= 0:
                    samples[name].append(sample)
        progress.remove_task(task)
    return samples


def _time_command(name: str, module: str, flags: Sequence[str], folder: Path, cache: Path) -> dict[str, float]:
    variables = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    flags = [*flags, "--epochs", str(WHOLE_EPOCHS)]
    started, began = time.time(), time.monotonic()
    if module == "reference_torch.article":
        processes.run(name, module, "module", *flags)
        return {"total_seconds": time.monotonic() - began}
    arguments = (*flags, "--visdom", "off", "--quiet", "--run-dir", str(folder))
    processes.run(name, module, *arguments, variables=variables)
    total = time.monotonic() - began
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    first = next(event for event in events if event["event"] == "train_losses")
    sample = {
        "ready_seconds": first["time"] - first["seconds"] - started,
        "first_epoch_done_seconds": first["time"] - started,
        "total_seconds": total,
    }
    good = [
        event["time"] - started
        for event in events
        if event["event"] == "evaluated" and event["test_correct"] >= TARGET_ACCURACY * event["test_examples"]
    ]
    if good and "--initial-weights" in flags:
        sample["to_target_seconds"] = good[0]
    return sample


def _sweep(names: Sequence[str], config: Config, progress: Progress) -> list[dict[str, Any]]:
    """What an example costs by batch size and by width; one process each, three epochs after a first."""
    points = [("batch size", replace(config, batch_size=size)) for size in BATCH_SIZES]
    points += [("width", replace(config, hidden=(width, width))) for width in WIDTHS]
    task = progress.add_task("", total=len(points) * len(names))
    results = []
    for varied, point in points:
        each = floor.operations(point.widths(784, 10), 1)
        affordable = int(_SWEPT_OPERATIONS / each) // point.batch_size
        examples = min(60_000, max(affordable, 2) * point.batch_size)
        for name in names:
            progress.update(task, advance=1, description=f"sweep: {name}, {point.batch_size}, {point.hidden}")
            answer = ask(name, point, epochs=3, examples=examples)
            results.append(
                {
                    "varied": varied,
                    "rung": name,
                    "batch_size": point.batch_size,
                    "hidden": point.hidden,
                    "examples": examples,
                    "operations_per_example": each,
                    "epoch_seconds": answer["epoch_seconds"],
                }
            )
    progress.remove_task(task)
    return results
