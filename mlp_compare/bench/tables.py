"""Figures of a benchmark as tables and as Markdown: `python -m mlp_compare.bench.tables`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mlp_compare.bench import whole_commands as whole
from mlp_compare.bench.benchmark import FORMAT, epoch_medians
from mlp_compare.bench.timings import Ratio, break_even, medians, ratio
from mlp_compare.bench.variants import CONTROL
from mlp_compare.old_names import with_current_names
from mlp_workload.cli.parse import Positional, run_command
from mlp_workload.data.shipped import CLASSES, PIXELS
from mlp_workload.environment.description import under_quota
from mlp_workload.errors import UserError, escaped, refusal
from mlp_workload.files import expand, read_json
from mlp_workload.sinks.console import Output

Result = Mapping[str, Any]
_SEEDS = "jax-seeds"
_TARGET = f"{whole.TARGET_ACCURACY:.0%}".replace("%", " %")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Prints what `mlp_compare.bench --json` wrote as Markdown, for docs/benchmark.md."""

    file: Annotated[Path, Positional("FILE")]
    """Prints this file."""


def main() -> None:
    program = "python -m mlp_compare.bench.tables"
    run_command(program, Shown, lambda options: print(escaped(markdown(read(options.file)))))


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

    def fastest(self, library: str) -> str:
        """Returns the fastest of the variants whose keys begin with `library`, or an empty string."""
        names = [name for name in self.variants if name.startswith(library)]
        return min(names, key=lambda name: self.medians[name]["epoch_seconds"], default="")

    def title(self, name: str) -> str:
        return str(self.variants[name]["name"])

    def ratio(self, of: str, to: str) -> Ratio:
        return ratio(self.seconds, of, to)

    def is_bound(self, name: str) -> bool:
        return bool(self.variants[name]["kind"] == "lower_bound")

    def ordered(self) -> list[str]:
        """Returns the variants that train, fastest first, then the lower bounds, without the control."""
        names = [name for name in self.variants if name != CONTROL]
        return sorted(names, key=lambda name: (self.is_bound(name), self.medians[name]["epoch_seconds"]))

    def ratios(self) -> Iterator[tuple[str, Ratio]]:
        first = self.title(self.first)
        for library, over in (("torch", "the fastest PyTorch"), ("products", "the fastest library's products alone")):
            if (name := self.fastest(library)) and name != self.first:
                yield f"{first}, over {over} ({self.title(name)})", self.ratio(self.first, name)
        products = "products-jax"
        if self.jax_is_first and products in self.variants and self.fastest("products") != products:
            yield f"{first}, over JAX's own products alone", self.ratio(self.first, products)
        yield "control: the first variant over itself", self.ratio(CONTROL, self.first)

    @property
    def jax_is_first(self) -> bool:
        return bool(self.variants[self.first]["kind"] == "jax")

    def whole_ratio(self, of: str, to: str, quantity: str) -> Ratio:
        samples = self.result["whole"]
        return ratio({name: [sample[quantity] for sample in samples[name]] for name in (of, to)}, of, to)

    def torch_wins(self) -> Iterator[str]:
        """Yields a line for each quantity in which any form of PyTorch was ahead of JAX in this measurement."""
        torch = [name for name in self.variants if name.startswith("torch")]
        if not self.jax_is_first or not torch:
            return
        for name in torch:
            if (over := self.ratio(self.first, name)).low > 1:
                yield f"{self.title(name)} trains an epoch faster: ratio {over}"
        for quantity, title, unit in (
            ("ready_seconds", "ready for the first step, nothing kept from earlier runs", "s"),
            ("peak_megabytes", "peak memory", "MB"),
        ):
            values = {name: self.medians[name][quantity] for name in (self.first, *torch)}
            if (name := min(values, key=values.__getitem__)) != self.first:
                yield (
                    f"{title}: {values[name]:.3g} {unit} ({self.title(name)}) against {values[self.first]:.3g} {unit}"
                )
        products = "products-jax", "products-torch"
        if {*products} <= self.variants.keys() and (over := self.ratio(*products)).low > 1:
            yield f"the products alone: JAX's take {over} times as long as PyTorch's"
        for quantity, goal in (("ready_seconds", "its first step"), ("total_seconds", "ten epochs")):
            for name in (whole.JAX_FIRST, whole.JAX_LATER) if self.result["whole"] else ():
                if (over := self.whole_ratio(name, whole.TORCH, quantity)).low > 1:
                    yield f"`{name}` reaches {goal} after {over} times as long as PyTorch's"
        yield from _seeds_wins(self.result["seeds"])
        yield from self._sweep_wins()

    def _sweep_wins(self) -> Iterator[str]:
        points: dict[tuple[int, tuple[int, ...]], dict[str, float]] = {}
        for point in self.result["sweep"]:
            key = point["batch_size"], tuple(point["hidden"])
            points.setdefault(key, {}).setdefault(point["variant"], float(np.median(point["epoch_seconds"])))
        for (batch_size, hidden), seconds in points.items():
            jax = seconds.pop(self.first, 0.0)
            name = min(seconds, key=seconds.__getitem__, default="")
            if name and jax > 1.15 * seconds[name]:  # clearly slower, for a single process of each
                yield (
                    f"batches of {batch_size}, hidden layers of {'-'.join(map(str, hidden))}: {self.title(name)}, "
                    f"ratio {jax / seconds[name]:.2f}, of one process each"
                )


def _seeds_wins(seeds: Result) -> Iterator[str]:
    """Compares the same way in both frameworks, and the fastest of each."""
    if not seeds:
        return
    figures = Figures(seeds)
    pairs = ("jax-in-turn", "torch-in-turn"), ("jax-vmap", "torch-vmap"), (_SEEDS, figures.fastest("torch"))
    for jax, torch in pairs:
        if {jax, torch} <= figures.variants.keys() and (over := figures.ratio(jax, torch)).low > 1:
            yield f"{seeds['models']} models, {figures.title(torch)} against {figures.title(jax)}: ratio {over}"


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


def _remarks(figures: Figures) -> Iterator[str]:
    yield from _quota_remarks(figures.result)
    for description, over in figures.ratios():
        yield f"{description}: {over}" + (f", {over.rounds} rounds" if over.is_interval else "")
    if (torch := figures.fastest("torch")) and figures.jax_is_first:
        both = figures.medians[figures.first], figures.medians[torch]
        ready, epoch = ([values[key] for values in both] for key in ("ready_seconds", "epoch_seconds"))
        ahead = f"{figures.title(figures.first)} is ahead of {figures.title(torch)} {break_even(ready, epoch)}"
        yield f"from cold starts {ahead}, by the medians"
    for of, to, quantity, description in (
        (whole.JAX_FIRST, whole.TORCH, "total_seconds", "whole command, JAX the first time over PyTorch"),
        (whole.JAX_LATER, whole.TORCH, "total_seconds", "whole command, JAX later over PyTorch"),
        (whole.JAX_LATER, whole.TUTORIAL, "total_seconds", "whole command, JAX later over the tutorial's program"),
        (whole.JAX_LATER, whole.JAX_FIRST, "ready_seconds", "until the first step, JAX later over the first time"),
        (whole.JAX_GIVEN, whole.TORCH_GIVEN, "to_target_seconds", f"until {_TARGET} are right, JAX over PyTorch"),
        (whole.JAX_WATCHED, whole.JAX_LATER, "run_seconds", "JAX, all steps, drawn on a dashboard over undrawn"),
        (whole.TORCH_WATCHED, whole.TORCH, "run_seconds", "PyTorch, all steps, drawn on a dashboard over undrawn"),
        (whole.JAX_LATER, whole.JAX_UNKEPT, "run_seconds", "JAX, all steps, with checkpoints over without"),
        (whole.TORCH, whole.TORCH_UNKEPT, "run_seconds", "PyTorch, all steps, with checkpoints over without"),
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
    for name in ("jax-in-turn", figures.fastest("torch")):
        if {_SEEDS, name} <= figures.variants.keys():
            names = f"{figures.title(_SEEDS)} over {figures.title(name)}"
            yield f"an epoch of {n} models, {names}: {figures.ratio(_SEEDS, name)}"
    yield f"an epoch of {n} models, control: {figures.ratio(CONTROL, figures.first)}"


def _rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    bound = figures.fastest("products")
    for name in figures.ordered():
        values = figures.medians[name]
        seconds = values["epoch_seconds"]
        times = f"{seconds / figures.medians[bound]['epoch_seconds']:.2f}" if bound else ""
        others = (
            f"{values['ready_seconds']:.1f} s", f"{values['compile_seconds']:.1f} s",
            f"{values['peak_megabytes']:.0f} MB",
        )  # fmt: skip
        yield figures.title(name), f"{seconds:.3f} s", times, *(("", "", "") if figures.is_bound(name) else others)


def _seeds_rows(seeds: Result) -> Iterator[tuple[str, ...]]:
    figures, n = Figures(seeds), seeds["models"]
    for name in figures.ordered():
        epoch, *others = (figures.medians[name][f"{part}_seconds"] for part in ("epoch", "ready", "compile"))
        yield figures.title(name), str(n), f"{n / epoch:.2f} /s", *(f"{seconds:.1f} s" for seconds in others)


def _whole_rows(commands: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, samples in commands.items():
        values = medians(samples)
        keys = ("ready_seconds", "first_epoch_done_seconds", "to_target_seconds", "total_seconds")
        yield name, *(f"{values[key]:.2f} s" if key in values else "" for key in keys)


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
        figures, seeds = Figures(result), result["seeds"]
        tables: list[tuple[Sequence[str], Sequence[tuple[str, ...]]]]
        tables = [(("", "an epoch", "× bound", "ready", "compile", "memory"), list(_rows(figures)))]
        if seeds:
            headings = "several models", "how many", "epochs of a model", "ready", "compile"
            tables.append((headings, list(_seeds_rows(seeds))))
        if result["whole"]:
            run = "10 epochs of the default preset, start to end"
            headings = run, "first step", "epoch 1", f"{_TARGET} right", "all done"
            tables.append((headings, list(_whole_rows(result["whole"]))))
        left_out = [*result["left_out"].values(), *seeds.get("left_out", {}).values()]
        return cls(_setting(result), tables, list(_remarks(figures)), left_out, list(figures.torch_wins()))


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
    wins = "where PyTorch wins:" if view.torch_wins else "where PyTorch wins: nowhere in this run"
    left_out = (f"left out: {line}" for line in view.left_out)
    for line in (*view.remarks, *left_out, wins, *(f"  {line}" for line in view.torch_wins)):
        console.print(line)


def markdown(result: Result) -> str:
    view = View.of(result)
    epochs, *others = [_markdown_table(*table) for table in view.tables]
    parts = [view.setting, epochs, _markdown_list([*view.remarks, *(f"left out: {line}" for line in view.left_out)])]
    parts += others
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
