"""Measurements of `mlp_compare.bench`, as JSON can hold them."""

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
from mlp_compare.bench.timings import FEWEST, ratio
from mlp_compare.bench.variants import CONTROL, MODELS, QUICK, SEEDS_VARIANTS, VARIANTS
from mlp_compare.comparable import require_comparable
from mlp_compare.old_names import current_name
from mlp_workload.config import Config
from mlp_workload.data.shipped import CLASSES, PIXELS, TRAIN_EXAMPLES
from mlp_workload.environment.description import describe_environment
from mlp_workload.errors import UserError
from mlp_workload.sinks.console import Output
from mlp_workload.weights import Parameters, load_weights, parameter_shapes

FORMAT = 3
CHECKED_EXAMPLES = 12_000
"""Examples that each variant trains on in float64 before it is timed."""
BATCH_SIZES = (20, 50, 100, 200, 500, 1000, 2000, 5000, 20_000)
WIDTHS = (50, 100, 200, 500, 1000, 2000, 4000)
_SWEPT_OPERATIONS = 2e11
"""Most operations of an epoch in the sweep: wide networks see a part of the training set."""

SEEDS_ROUNDS, SEEDS_EPOCHS = 8, 2
ALL = VARIANTS | SEEDS_VARIANTS

Samples = dict[str, list[dict[str, Any]]]


def measure(options: Bench, console: Output) -> Iterator[dict[str, Any]]:
    """Yields the result with the variants, then also with several models, whole commands and the sweep.

    A late failure therefore loses nothing that is measured. Raises `UserError` if a variant fails, if it trains
    differently from the first, or if devices differ.
    """
    with console.progress() as progress:
        gpu = options.device != "cpu" and find_spec("torch") is not None
        gpu = gpu and str(ask("products-torch", Config(hidden=(1,)), epochs=1)["device"]) != "cpu"
        wanted = options.variants or (QUICK if options.quick else VARIANTS)
        chosen, left_out = _possible(wanted, gpu, options.batch_size)
        with tempfile.TemporaryDirectory() as folder:
            _check(chosen, left_out, options.config, Path(folder), progress)
        names = [name for name in chosen if name not in left_out]
        if not names:
            raise UserError(f"nothing to time: {'; '.join(left_out.values())}")
        most, epochs = (4, 3) if options.quick else (options.rounds, options.epochs)
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
            "variants": {name: _described(name, names[0], runs) for name, runs in samples.items()},
            "left_out": left_out,
            "seeds": {},
            "whole": {},
            "sweep": [],
        }
        yield result
        if options.seeds and not options.quick and not gpu:  # on a GPU PyTorch would need CUDA graphs of several models
            yield (result := result | {"seeds": _seeds(options.config, gpu, progress)})
        if options.whole and not options.quick:
            yield (result := result | {"whole": whole_commands.measure(options.device_flags, progress)})
        if options.sweep and not options.quick:
            swept = [name for name in ("jax", "torch", "torch-hand") if name in names]
            yield result | {"sweep": _sweep(swept, options.config, progress)}


def _possible(names: Iterable[str], gpu: bool, batch_size: int) -> tuple[list[str], dict[str, str]]:
    """Returns the variants that can be timed here, and the reason for each of the others."""
    chosen, left_out = [], {}
    for name in dict.fromkeys(map(current_name, names)):
        variant = ALL[name]
        if variant.missing:
            left_out[name] = f"{variant.name}: {variant.missing} is not installed (pip install '.[bench]')"
        elif variant.device != "any" and (variant.device == "gpu") != gpu:
            left_out[name] = f"{variant.name}: {'needs a GPU' if variant.device == 'gpu' else 'is for the CPU'}"
        elif variant.kind == "lower_bound" and TRAIN_EXAMPLES % batch_size:
            left_out[name] = f"{variant.name}: batches of {batch_size} do not divide the set"
        else:
            chosen.append(name)
    return chosen, left_out


def _check(names: Sequence[str], left_out: dict[str, str], config: Config, folder: Path, progress: Progress) -> None:
    """Trains each variant a little in float64 from the same weights on the same batches, and compares the results.

    Raises `UserError` if the parameters differ; a variant that is optional and fails is added to `left_out`.
    """
    config = replace(config, dtype="float64", matmul_precision="highest")
    examples = max(CHECKED_EXAMPLES, config.batch_size)
    ends: dict[str, Parameters] = {}
    trained = [name for name in names if ALL[name].kind != "lower_bound"]
    task = progress.add_task("", total=len(trained))
    for name in trained:
        progress.update(task, advance=1, description=f"float64 check: {name}")
        if not _ask(name, left_out, config, epochs=1, examples=examples, state=str(folder / name)):
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


def _ask(name: str, left_out: dict[str, str], config: Config, **options: Any) -> dict[str, Any]:
    """Returns the answer about a variant; if it is optional and fails, adds it to `left_out` and returns nothing."""
    try:
        return ask(name, config, **options)
    except ProcessFailed as error:
        if not ALL[name].optional:
            raise
        left_out[name] = str(error)
        return {}


def _rounds(
    names: Sequence[str], left_out: dict[str, str], config: Config, most: int, epochs: int, progress: Progress
) -> Samples:
    """Returns samples by variant from rounds that start every variant once, and the first one again as a control.

    Every second round goes backwards, and each pair of rounds begins with another variant.
    """
    order = [*names, CONTROL]
    samples: Samples = {name: [] for name in order}
    task = progress.add_task("", total=most * len(order))
    for number in range(most):
        turn = number // 2 % len(order)
        rotated = order[turn:] + order[:turn]
        for name in rotated if number % 2 == 0 else rotated[::-1]:
            variant = names[0] if name == CONTROL else name
            progress.update(task, advance=1, description=f"round {number + 1}: {variant}")
            if variant not in left_out and (sample := _ask(variant, left_out, config, epochs=epochs)):
                samples[name].append(sample)
        samples = {name: runs for name, runs in samples.items() if name not in left_out}
        order = list(samples)
        require_comparable({name: runs[0] for name, runs in samples.items()})
        if number % 2 == 1 and number + 1 >= FEWEST and _are_narrow(samples, names[0]):
            break
    progress.remove_task(task)
    return samples


def _are_narrow(samples: Samples, first: str) -> bool:
    """Returns whether the intervals of the first variant's ratios to the fastest of each kind are within 2 %."""
    seconds = epoch_medians(samples)
    fastest: dict[str, str] = {}
    for name in sorted(seconds, key=lambda name: float(np.median(seconds[name]))):
        fastest.setdefault("control" if name == CONTROL else ALL[name].kind, name)
    return all(ratio(seconds, first, other).half_width <= 0.02 for other in fastest.values() if other != first)


def epoch_medians(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[float]]:
    """Returns the seconds of an epoch by variant: for each process the median of its epochs."""
    return {name: [float(np.median(sample["epoch_seconds"])) for sample in runs] for name, runs in samples.items()}


def _described(name: str, first: str, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the facts that all processes of a variant share, and the samples in the order of the rounds."""
    variant = ALL[first if name == CONTROL else name]
    common = {key: samples[0][key] for key in ("device", "precision", "environment")}
    assert all(sample[key] == value for sample in samples for key, value in common.items())
    return {
        "name": f"{variant.name}, once more" if name == CONTROL else variant.name,
        "kind": "control" if name == CONTROL else variant.kind,
        **common,
        "samples": [{key: value for key, value in sample.items() if key not in common} for sample in samples],
    }


def _seeds(config: Config, gpu: bool, progress: Progress) -> dict[str, Any]:
    """Returns the timings of an epoch of several models, by each way to train them."""
    chosen, left_out = _possible(SEEDS_VARIANTS, gpu, config.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        _check(["jax", *chosen], left_out, config, Path(folder), progress)
    names = [name for name in chosen if name not in left_out]
    samples = _rounds(names, left_out, config, SEEDS_ROUNDS, SEEDS_EPOCHS, progress)
    variants = {name: _described(name, names[0], runs) for name, runs in samples.items()}
    return {"models": MODELS, "first": names[0], "variants": variants, "left_out": left_out}


def _sweep(names: Sequence[str], config: Config, progress: Progress) -> list[dict[str, Any]]:
    """Returns timings by batch size and by width: three epochs after a first one, in one process each."""
    points = [("batch size", replace(config, batch_size=size)) for size in BATCH_SIZES]
    points += [("width", replace(config, hidden=(width, width))) for width in WIDTHS]
    task = progress.add_task("", total=len(points) * len(names))
    results = []
    for varied, point in points:
        operations = lower_bound.operations(point.widths(PIXELS, CLASSES), 1)
        affordable = int(_SWEPT_OPERATIONS / operations) // point.batch_size
        examples = min(TRAIN_EXAMPLES, max(affordable, 2) * point.batch_size)
        for name in names:
            progress.update(task, advance=1, description=f"sweep: {name}, {point.batch_size}, {point.hidden}")
            answer = {
                "varied": varied,
                "variant": name,
                "batch_size": point.batch_size,
                "hidden": point.hidden,
                "examples": examples,
                "operations_per_example": operations,
                "epoch_seconds": ask(name, point, epochs=3, examples=examples)["epoch_seconds"],
            }
            results.append(answer)
    progress.remove_task(task)
    return results
