"""What `mlp_compare.bench` measures, as JSON can hold it."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from mlp_compare.bench import lower_bound, processes, whole_commands
from mlp_compare.bench.options import Bench
from mlp_compare.bench.processes import ProcessFailed, ask
from mlp_compare.bench.timings import ratio
from mlp_compare.bench.variants import CONTROL, MANY, MODELS, QUICK, RUNGS
from mlp_compare.comparable import require_alike
from mlp_workload.config import Config
from mlp_workload.data.shipped import CLASSES, PIXELS, TRAIN_EXAMPLES
from mlp_workload.environment.description import describe_environment
from mlp_workload.errors import UserError
from mlp_workload.sinks.console import Output
from mlp_workload.weights import Parameters, load_weights, parameter_shapes

FORMAT = 2
CHECKED_EXAMPLES = 12_000
"""That each rung trains on in float64 before it is timed."""
NARROW = 0.02
"""Half the width of a ratio's interval, relative: rounds go on until all that matter are so narrow."""
FEWEST_ROUNDS, QUICK_ROUNDS, QUICK_EPOCHS = 6, 4, 3
BATCH_SIZES = (20, 50, 100, 200, 500, 1000, 2000, 5000, 20_000)
WIDTHS = (50, 100, 200, 500, 1000, 2000, 4000)
SWEPT = ("jax", "torch", "torch-hand")
_SWEPT_OPERATIONS = 2e11
"""Of one point's epoch, at most: wide networks see a part of the training set."""

MANY_ROUNDS, MANY_EPOCHS = 8, 2
ALL = RUNGS | MANY

Samples = dict[str, list[dict[str, Any]]]


def measure(options: Bench, console: Output) -> Iterator[dict[str, Any]]:
    """The rungs; then with them the whole commands; then the sweep too: a late failure costs nothing that is measured.

    Raises `UserError` where a rung trains otherwise than the rest, on another kind of device, or not at all.
    """
    with console.progress() as progress:
        gpu = options.device != "cpu" and find_spec("torch") is not None and _torch_sees_a_gpu()
        wanted = options.rungs or (QUICK if options.quick else RUNGS)
        chosen, left_out = _possible(wanted, gpu, options.batch_size)
        with tempfile.TemporaryDirectory() as folder:
            _check(chosen, left_out, options.config, Path(folder), progress)
        names = [name for name in chosen if name not in left_out]
        if not names:
            raise UserError(f"nothing to time: {'; '.join(left_out.values())}")
        most, epochs = (QUICK_ROUNDS, QUICK_EPOCHS) if options.quick else (options.rounds, options.epochs)
        samples = _rounds(names, left_out, options.config, most, epochs, progress)
        result = {
            "format": FORMAT,
            "kind": "benchmark",
            "date": datetime.now(UTC).date().isoformat(),
            "config": json.loads(options.config.to_json()),
            "first": names[0],
            "operations": lower_bound.operations(options.config.widths(PIXELS, CLASSES), TRAIN_EXAMPLES),
            "cores": processes.CORES,
            "threads": processes.THREADS,
            "precision": options.config.precision,
            "environment": describe_environment(("numpy", "scipy")),
            "rungs": {name: _described(name, names[0], some) for name, some in samples.items()},
            "left_out": left_out,
            "many": {},
            "whole": {},
            "sweep": [],
        }
        yield result
        if options.many and not options.quick and not gpu:  # there PyTorch would want CUDA graphs of several models
            yield (result := result | {"many": _many(options.config, gpu, progress)})
        if options.whole and not options.quick:
            yield (result := result | {"whole": whole_commands.measure(options.device_flags, progress)})
        if options.sweep and not options.quick:
            swept = [name for name in SWEPT if name in names]
            yield result | {"sweep": _sweep(swept, options.config, progress)}


def _possible(names: Iterable[str], gpu: bool, batch_size: int) -> tuple[list[str], dict[str, str]]:
    """The rungs that can be timed, and why the others can't."""
    chosen, left_out = [], {}
    for name in names:
        rung = ALL[name]
        if rung.missing:
            left_out[name] = f"{rung.name}: {rung.missing} is not installed (pip install '.[bench]')"
        elif rung.device != "any" and (rung.device == "gpu") != gpu:
            left_out[name] = f"{rung.name}: needs a GPU" if rung.device == "gpu" else f"{rung.name}: is for the CPU"
        elif rung.kind == "floor" and TRAIN_EXAMPLES % batch_size:
            left_out[name] = f"{rung.name}: batches of {batch_size} do not divide the set"
        else:
            chosen.append(name)
    return chosen, left_out


def _torch_sees_a_gpu() -> bool:
    return str(ask("floor-torch", Config(hidden=(1,)), epochs=1)["device"]) != "cpu"


def _check(names: Sequence[str], left_out: dict[str, str], config: Config, folder: Path, progress: Progress) -> None:
    """Trains a little in float64, each rung from the same start over the same batches, and compares the ends."""
    config = replace(config, dtype="float64", matmul_precision="highest")
    examples = max(CHECKED_EXAMPLES, config.batch_size)
    ends: dict[str, Parameters] = {}
    trained = [name for name in names if ALL[name].kind != "floor"]
    task = progress.add_task("", total=len(trained))
    for name in trained:
        progress.update(task, advance=1, description=f"float64 check: {name}")
        try:
            ask(name, config, epochs=1, examples=examples, state=str(folder / name))
        except ProcessFailed as error:
            if not ALL[name].optional:
                raise
            left_out[name] = str(error)
            continue
        ends[name] = load_weights(folder / name, parameter_shapes(config.widths(PIXELS, CLASSES)))
        first = next(iter(ends))
        allowed = max(ALL[name].apart, ALL[first].apart)
        apart = float(np.max([np.abs(ends[name][key] - array).max() for key, array in ends[first].items()]))
        if not apart <= allowed:
            raise UserError(
                f"{name} does not train as {first} does: after {examples} examples in float64 their parameters are "
                f"{apart:.2g} apart, allowed {allowed:.0e}"
            )
    progress.remove_task(task)


def _rounds(
    names: Sequence[str], left_out: dict[str, str], config: Config, most: int, epochs: int, progress: Progress
) -> Samples:
    """Each round starts every rung once, and the first one again.

    Every second round goes backwards, and each pair begins with another rung, so that all have all neighbours.
    """
    order = [*names, CONTROL]
    samples: Samples = {name: [] for name in order}
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
                samples[name].append(ask(rung, config, epochs=epochs))
            except ProcessFailed as error:
                if not ALL[rung].optional:
                    raise
                left_out[rung] = str(error)
        samples = {name: some for name, some in samples.items() if name not in left_out}
        order = list(samples)
        require_alike({name: some[0] for name, some in samples.items()})
        if number % 2 == 1 and number + 1 >= FEWEST_ROUNDS and _are_narrow(samples, names[0]):
            break
    progress.remove_task(task)
    return samples


def _are_narrow(samples: Samples, first: str) -> bool:
    """Whether the first rung's ratios to the fastest of each kind, and to itself, are known well enough."""
    seconds = epoch_medians(samples)
    fastest: dict[str, str] = {}
    for name in sorted(seconds, key=lambda name: float(np.median(seconds[name]))):
        fastest.setdefault("control" if name == CONTROL else ALL[name].kind, name)
    return all(ratio(seconds, first, other).half_width <= NARROW for other in fastest.values() if other != first)


def epoch_medians(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[float]]:
    """Each rung's seconds for an epoch, one number a process: the median of those it timed."""
    return {name: [float(np.median(one["epoch_seconds"])) for one in some] for name, some in samples.items()}


def _described(name: str, first: str, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the processes have in common once, then the samples in the order of the rounds."""
    rung = ALL[first if name == CONTROL else name]
    common = {key: samples[0][key] for key in ("device", "precision", "environment")}
    assert all(sample[key] == value for sample in samples for key, value in common.items())
    return {
        "name": f"{rung.name}, once more" if name == CONTROL else rung.name,
        "kind": "control" if name == CONTROL else rung.kind,
        **common,
        "samples": [{key: value for key, value in sample.items() if key not in common} for sample in samples],
    }


def _many(config: Config, gpu: bool, progress: Progress) -> dict[str, Any]:
    """An epoch of several models, by each way to train them."""
    chosen, left_out = _possible(MANY, gpu, config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        _check(["jax", *chosen], left_out, config, Path(folder), progress)
    names = [name for name in chosen if name not in left_out]
    samples = _rounds(names, left_out, config, MANY_ROUNDS, MANY_EPOCHS, progress)
    rungs = {name: _described(name, names[0], some) for name, some in samples.items()}
    return {"models": MODELS, "first": names[0], "rungs": rungs, "left_out": left_out}


def _sweep(names: Sequence[str], config: Config, progress: Progress) -> list[dict[str, Any]]:
    """What an example costs by batch size and by width; one process each, three epochs after a first."""
    points = [("batch size", replace(config, batch_size=size)) for size in BATCH_SIZES]
    points += [("width", replace(config, hidden=(width, width))) for width in WIDTHS]
    task = progress.add_task("", total=len(points) * len(names))
    results = []
    for varied, point in points:
        each = lower_bound.operations(point.widths(PIXELS, CLASSES), 1)
        affordable = int(_SWEPT_OPERATIONS / each) // point.batch_size
        examples = min(TRAIN_EXAMPLES, max(affordable, 2) * point.batch_size)
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
