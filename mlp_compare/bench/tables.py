"""Figures of a benchmark as tables and as Markdown: `python -m mlp_compare.bench.tables`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mlp_compare.bench.benchmark import FORMAT, epoch_medians
from mlp_compare.bench.timings import Ratio, break_even, medians, ratio
from mlp_compare.bench.variants import CONTROL
from mlp_compare.bench.whole_commands import (
    JAX_FIRST,
    JAX_GIVEN,
    JAX_LATER,
    JAX_UNKEPT,
    JAX_WATCHED,
    TARGET_ACCURACY,
    TORCH,
    TORCH_GIVEN,
    TORCH_UNKEPT,
    TORCH_WATCHED,
    TUTORIAL,
)
from mlp_compare.old_names import with_current_names
from mlp_workload.cli.parse import Positional, run_command
from mlp_workload.data.shipped import CLASSES, PIXELS
from mlp_workload.environment.description import under_quota
from mlp_workload.errors import UserError, escaped, refusal
from mlp_workload.files import expand, read_json
from mlp_workload.sinks.console import Output

PROGRAM = "python -m mlp_compare.bench.tables"
Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Prints what `mlp_compare.bench --json` wrote as Markdown, for docs/benchmark.md."""

    file: Annotated[Path, Positional("FILE")]
    """Prints this file."""


def main() -> None:
    run_command(PROGRAM, Shown, lambda options: print(escaped(markdown(read(options.file)))))


def read(path: Path) -> Result:
    """Returns the benchmark in the file `path`. Raises `UserError` if it is something else."""
    path = expand(path)
    content = with_current_names(read_json(path))
    if not isinstance(content, dict) or content.get("kind") != "benchmark":
        raise UserError(f"{path} is not what mlp_compare.bench writes by --json")
    check(content, str(path))
    return content


def check(content: Result, source: str) -> None:
    """Raises `UserError` if a benchmark, with current names, has another format or is not whole."""
    if content.get("format") not in (2, FORMAT):
        raise UserError(f"{source} has format {content.get('format')}, this reads 2 and {FORMAT}")
    try:
        View.of(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{source} is not a whole benchmark ({refusal(error)})") from error


class Figures:
    """Medians and ratios from the samples of a benchmark."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.variants: Mapping[str, Any] = result["variants"]
        self.first: str = result["first"]
        self.seconds = epoch_medians({name: variant["samples"] for name, variant in self.variants.items()})
        self.medians = {name: medians(variant["samples"]) for name, variant in self.variants.items()}

    def fastest(self, kind: str) -> str | None:
        names = [name for name in self.variants if self.variants[name]["kind"] == kind]
        return min(names, key=lambda name: self.medians[name]["epoch_seconds"], default=None)

    def fastest_of(self, framework: str) -> str:
        """Returns the fastest of the variants whose keys begin with `framework`, or an empty string."""
        names = [name for name in self.variants if name.startswith(framework)]
        return min(names, key=lambda name: self.medians[name]["epoch_seconds"], default="")

    def ratio(self, of: str, to: str) -> Ratio:
        return ratio(self.seconds, of, to)

    def ordered(self) -> list[str]:
        """Returns the variants that train, fastest first, then the lower bounds, without the control."""
        names = [name for name in self.variants if name != CONTROL]
        is_bound = {name: self.variants[name]["kind"] == "lower_bound" for name in names}
        return sorted(names, key=lambda name: (is_bound[name], self.medians[name]["epoch_seconds"]))

    def ratios(self) -> Iterator[tuple[str, Ratio]]:
        """Yields the main ratios, each with its description."""
        first = self.variants[self.first]["name"]
        for kind, over in (("torch", "the fastest PyTorch"), ("lower_bound", "the fastest library's products alone")):
            if (name := self.fastest(kind)) is not None and name != self.first:
                yield f"{first}, over {over} ({self.variants[name]['name']})", self.ratio(self.first, name)
        if (
            self.variants[self.first]["kind"] == "jax"
            and "products-jax" in self.variants
            and self.fastest("lower_bound") != "products-jax"
        ):
            yield f"{first}, over JAX's own products alone", self.ratio(self.first, "products-jax")
        yield "control: the first variant over itself", self.ratio(CONTROL, self.first)

    def whole_ratio(self, of: str, to: str, quantity: str) -> Ratio:
        samples = self.result["whole"]
        return ratio({name: [sample[quantity] for sample in samples[name]] for name in (of, to)}, of, to)

    def torch_wins(self) -> list[str]:
        """Returns a line for each quantity in which any form of PyTorch was ahead of JAX in this measurement."""
        torch = [name for name, variant in self.variants.items() if variant["kind"] == "torch"]
        if self.variants[self.first]["kind"] != "jax" or not torch:
            return []
        lines = []
        jax = self.medians[self.first]
        for name in torch:
            if (over := self.ratio(self.first, name)).low > 1:
                lines.append(f"{self.variants[name]['name']} trains an epoch faster: ratio {over}")
        for quantity, title, unit in (
            ("ready_seconds", "ready for the first step, nothing kept from earlier runs", "s"),
            ("peak_megabytes", "peak memory", "MB"),
        ):
            name = min(torch, key=lambda name: self.medians[name][quantity])
            if (value := self.medians[name][quantity]) < jax[quantity]:
                lines.append(
                    f"{title}: {value:.3g} {unit} ({self.variants[name]['name']}) against {jax[quantity]:.3g} {unit}"
                )
        products = "products-jax", "products-torch"
        if {*products} <= self.variants.keys() and (over := self.ratio(*products)).low > 1:
            lines.append(f"the products alone: JAX's take {over} times as long as PyTorch's")
        for quantity, goal in (("ready_seconds", "its first step"), ("total_seconds", "ten epochs")):
            for name in (JAX_FIRST, JAX_LATER) if self.result["whole"] else ():
                if (over := self.whole_ratio(name, TORCH, quantity)).low > 1:
                    lines.append(f"`{name}` reaches {goal} after {over} times as long as PyTorch's")
        return [*lines, *_seeds_wins(self.result["seeds"]), *self._sweep_wins()]

    def _sweep_wins(self) -> Iterator[str]:
        points: dict[tuple[int, tuple[int, ...]], dict[str, float]] = {}
        for point in self.result["sweep"]:
            key = point["batch_size"], tuple(point["hidden"])
            points.setdefault(key, {}).setdefault(point["variant"], float(np.median(point["epoch_seconds"])))
        for (batch_size, hidden), seconds in points.items():
            jax = seconds.pop(self.first, 0.0)
            for name in sorted(seconds, key=lambda name: seconds[name])[:1]:
                if jax > _CLEARLY * seconds[name]:
                    layers = "-".join(map(str, hidden))
                    yield (
                        f"batches of {batch_size}, hidden layers of {layers}: {self.variants[name]['name']}, ratio "
                        f"{jax / seconds[name]:.2f}, of one process each"
                    )


def _seeds_wins(seeds: Result) -> Iterator[str]:
    """Compares the same way in both frameworks, and the fastest of each."""
    if not seeds:
        return
    figures = Figures(seeds)
    pairs = [("jax-in-turn", "torch-in-turn"), ("jax-vmap", "torch-vmap"), (_SEEDS, figures.fastest_of("torch"))]
    for jax, torch in pairs:
        if {jax, torch} <= figures.variants.keys() and (over := figures.ratio(jax, torch)).low > 1:
            names = (figures.variants[name]["name"] for name in (torch, jax))
            yield f"{seeds['models']} models, {' against '.join(names)}: ratio {over}"


def _setting(result: Result) -> str:
    config, environment = result["config"], result["environment"]
    versions: dict[str, str] = {}
    for variant in result["variants"].values():
        versions |= variant["environment"]["versions"]
    listed = ", ".join(f"{name} {versions[name]}" for name in versions if name not in ("flax", "optax", "jaxlib"))
    widths = "-".join(map(str, (PIXELS, *config["hidden"], CLASSES)))
    device = result["variants"][result["first"]]["device"]
    cores = f"{result['cores']} cores{under_quota(environment.get('cpu_quota'))}"
    return (
        f"{environment['processor']}, {cores}, {device.upper() if device == 'cpu' else device}, "
        f"{environment['system']}, Python {environment['python']}, {listed}; {result['date']}. {widths}, batches of "
        f"{config['batch_size']}, {result['precision']}."
    )


_HEADINGS = ("", "an epoch", "× bound", "ready", "compile", "memory")


def _rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    fastest = figures.fastest("lower_bound")
    for name in figures.ordered():
        values = figures.medians[name]
        is_bound = figures.variants[name]["kind"] == "lower_bound"
        yield (
            figures.variants[name]["name"],
            f"{values['epoch_seconds']:.3f} s",
            f"{values['epoch_seconds'] / figures.medians[fastest]['epoch_seconds']:.2f}" if fastest else "",
            "" if is_bound else f"{values['ready_seconds']:.1f} s",
            "" if is_bound else f"{values['compile_seconds']:.1f} s",
            "" if is_bound else f"{values['peak_megabytes']:.0f} MB",
        )


def _remarks(figures: Figures) -> Iterator[str]:
    yield from _quota_remarks(figures.result)
    for description, over in figures.ratios():
        yield f"{description}: {over}" + (f", {over.rounds} rounds" if over.is_interval else "")
    torch = figures.fastest("torch")
    if torch is not None and figures.variants[figures.first]["kind"] == "jax":
        medians = figures.medians
        ready, epoch = (
            (medians[figures.first][key], medians[torch][key]) for key in ("ready_seconds", "epoch_seconds")
        )
        yield (
            f"from cold starts {figures.variants[figures.first]['name']} is ahead of {figures.variants[torch]['name']} "
            f"{break_even(ready, epoch)}, by the medians"
        )
    if figures.result["whole"]:
        for of, to, quantity, description in (
            (JAX_FIRST, TORCH, "total_seconds", "whole command, JAX the first time over PyTorch"),
            (JAX_LATER, TORCH, "total_seconds", "whole command, JAX later over PyTorch"),
            (JAX_LATER, TUTORIAL, "total_seconds", "whole command, JAX later over the tutorial's program"),
            (JAX_LATER, JAX_FIRST, "ready_seconds", "until the first step, JAX later over the first time"),
            (JAX_GIVEN, TORCH_GIVEN, "to_target_seconds", f"until {_TARGET} are right, JAX over PyTorch"),
            (JAX_WATCHED, JAX_LATER, "run_seconds", "JAX, all steps, drawn on a dashboard over undrawn"),
            (TORCH_WATCHED, TORCH, "run_seconds", "PyTorch, all steps, drawn on a dashboard over undrawn"),
            (JAX_LATER, JAX_UNKEPT, "run_seconds", "JAX, all steps, with checkpoints over without"),
            (TORCH, TORCH_UNKEPT, "run_seconds", "PyTorch, all steps, with checkpoints over without"),
        ):
            if of in figures.result["whole"]:
                yield f"{description}: {figures.whole_ratio(of, to, quantity)}"
    yield from _seeds_remarks(figures.result["seeds"])


def _quota_remarks(result: Result) -> Iterator[str]:
    """Yields a note if the CPU quota is not a whole number of cores."""
    quota, cores = result["environment"].get("cpu_quota"), result["cores"]
    if quota is None or quota % 1 == 0 or cores != max(1, int(quota)):  # `cores` is smaller if the machine has fewer
        return
    if quota < 1:
        effect = f"the kernel pauses each process, so that work of {quota:g} s on a whole core takes about 1 s here"
    else:
        effect = f"products have a thread for each whole core of it ({cores}), and what is over is left idle"
    yield f"under a CPU quota of {quota:g} {effect}; ratios hold for processes under this quota"


def _seeds_remarks(seeds: Result) -> Iterator[str]:
    if not seeds:
        return
    figures, n = Figures(seeds), seeds["models"]
    others = ["jax-in-turn"] if "jax-in-turn" in figures.variants else []
    if torch := figures.fastest_of("torch"):
        others.append(torch)
    for name in others if _SEEDS in figures.variants else ():
        names = f"{figures.variants[_SEEDS]['name']} over {figures.variants[name]['name']}"
        yield f"an epoch of {n} models, {names}: {figures.ratio(_SEEDS, name)}"
    yield f"an epoch of {n} models, control: {figures.ratio(CONTROL, figures.first)}"


_TARGET = f"{TARGET_ACCURACY:.0%}".replace("%", " %")
_WHOLE_HEADINGS = (
    "10 epochs of the default preset, start to end",
    "first step",
    "epoch 1",
    f"{_TARGET} right",
    "all done",
)
_SEEDS_HEADINGS = ("several models", "how many", "epochs of a model", "ready", "compile")
_SEEDS = "jax-seeds"
_CLEARLY = 1.15
"""Ratio above which a single process of each is clearly slower."""


def _whole_rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    for name, samples in figures.result["whole"].items():
        values = medians(samples)
        keys = ("ready_seconds", "first_epoch_done_seconds", "to_target_seconds", "total_seconds")
        yield (name, *(f"{values[key]:.2f} s" if key in values else "" for key in keys))


def _seeds_rows(seeds: Result) -> Iterator[tuple[str, ...]]:
    if not seeds:
        return
    figures, n = Figures(seeds), seeds["models"]
    for name in figures.ordered():
        values = figures.medians[name]
        yield (
            figures.variants[name]["name"],
            str(n),
            f"{n / values['epoch_seconds']:.2f} /s",
            f"{values['ready_seconds']:.1f} s",
            f"{values['compile_seconds']:.1f} s",
        )


@dataclass(frozen=True)
class View:
    """Text and tables about a benchmark, for the terminal, Markdown and the report."""

    setting: str
    tables: Sequence[tuple[Sequence[str], Sequence[tuple[str, ...]]]]
    remarks: Sequence[str]
    left_out: Sequence[str]
    torch_wins: Sequence[str]

    @classmethod
    def of(cls, result: Result) -> "View":
        figures = Figures(result)
        tables = [
            (_HEADINGS, list(_rows(figures))),
            (_SEEDS_HEADINGS, list(_seeds_rows(result["seeds"]))),
            (_WHOLE_HEADINGS, list(_whole_rows(figures))),
        ]
        return cls(
            _setting(result),
            [(headings, rows) for headings, rows in tables if rows],
            list(_remarks(figures)),
            [*result["left_out"].values(), *result["seeds"].get("left_out", {}).values()],
            figures.torch_wins(),
        )


def show(console: Output, result: Result) -> None:
    view = View.of(result)
    console.print(view.setting)
    for headings, rows in view.tables:
        table = Table(*headings, box=SIMPLE_HEAD)
        table.columns[0].overflow = "fold"
        for column in table.columns[1:]:
            column.justify, column.no_wrap = "right", True
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in view.remarks:
        console.print(line)
    for line in view.left_out:
        console.print(f"left out: {line}")
    console.print("where PyTorch wins:" if view.torch_wins else "where PyTorch wins: nowhere in this run")
    for line in view.torch_wins:
        console.print(f"  {line}")


def markdown(result: Result) -> str:
    view = View.of(result)
    epochs, *whole = [_markdown_table(*table) for table in view.tables]
    parts = [view.setting, epochs, _markdown_list([*view.remarks, *(f"left out: {line}" for line in view.left_out)])]
    parts += whole
    if view.torch_wins:
        parts += ["Where PyTorch wins:", _markdown_list(view.torch_wins)]
    return "\n\n".join(parts)


def _markdown_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _markdown_table(headings: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


if __name__ == "__main__":
    main()
