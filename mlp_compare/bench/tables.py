"""A benchmark's figures as a table, as Markdown for a README (`python -m mlp_compare.bench.tables`), as a picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mlp_compare.bench.benchmark import FORMAT, epoch_medians
from mlp_compare.bench.timings import Ratio, break_even, medians, ratio
from mlp_compare.bench.variants import CONTROL
from mlp_compare.bench.whole_commands import (
    ARTICLE,
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
)
from mlp_compare.figures import COLOURS, INK, style, to_svg
from mlp_workload.cli.parse import Positional, run_command
from mlp_workload.environment.description import under_quota
from mlp_workload.errors import UserError, escaped, refusal
from mlp_workload.files import expand, read_json
from mlp_workload.sinks.console import Output

PROGRAM = "python -m mlp_compare.bench.tables"
Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Prints what `mlp_compare.bench --json` wrote as Markdown, as it stands in the README."""

    file: Annotated[Path, Positional("FILE")]
    """Prints this file."""


def main() -> None:
    run_command(PROGRAM, Shown, lambda options: print(escaped(markdown(read(options.file)))))


def read(path: Path) -> Result:
    """Raises `UserError` where `path` is not what a benchmark wrote."""
    path = expand(path)
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != "benchmark":
        raise UserError(f"{path} is not what mlp_compare.bench writes by --json")
    if isinstance(whole := content.get("whole"), dict):  # the tutorial's programs had another name in version 0.1
        content["whole"] = {
            name.replace("reference_torch.article", "reference_torch.tutorial"): runs for name, runs in whole.items()
        }
    check(content, str(path))
    return content


def check(content: Mapping[str, Any], source: str) -> None:
    """Raises `UserError` where a benchmark is of another format, or not whole."""
    if content.get("format") != FORMAT:
        raise UserError(f"{source} has format {content.get('format')}, this reads {FORMAT}")
    try:
        View.of(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{source} is not a whole benchmark ({refusal(error)})") from error


class Figures:
    """What follows from a benchmark's samples."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.rungs: Mapping[str, Any] = result["rungs"]
        self.first: str = result["first"]
        self.seconds = epoch_medians({name: rung["samples"] for name, rung in self.rungs.items()})
        self.medians = {name: medians(rung["samples"]) for name, rung in self.rungs.items()}

    def fastest(self, kind: str) -> str | None:
        names = [name for name in self.rungs if self.rungs[name]["kind"] == kind]
        return min(names, key=lambda name: self.medians[name]["epoch_seconds"], default=None)

    def fastest_of(self, framework: str) -> str:
        """Of the rungs whose short names begin so; of none, nothing."""
        names = [name for name in self.rungs if name.startswith(framework)]
        return min(names, key=lambda name: self.medians[name]["epoch_seconds"], default="")

    def ratio(self, of: str, to: str) -> Ratio:
        return ratio(self.seconds, of, to)

    def ordered(self) -> list[str]:
        """Those that train, fastest first, then the floors; the control stands apart."""
        names = [name for name in self.rungs if name != CONTROL]
        is_floor = {name: self.rungs[name]["kind"] == "floor" for name in names}
        return sorted(names, key=lambda name: (is_floor[name], self.medians[name]["epoch_seconds"]))

    def ratios(self) -> Iterator[tuple[str, Ratio]]:
        """The ones that matter, each with what it says."""
        first = self.rungs[self.first]["name"]
        for kind, what in (("torch", "the fastest PyTorch"), ("floor", "the fastest library's products alone")):
            if (name := self.fastest(kind)) is not None and name != self.first:
                yield f"{first}, over {what} ({self.rungs[name]['name']})", self.ratio(self.first, name)
        if (
            self.rungs[self.first]["kind"] == "jax"
            and "floor-jax" in self.rungs
            and self.fastest("floor") != "floor-jax"
        ):
            yield f"{first}, over JAX's own products alone", self.ratio(self.first, "floor-jax")
        yield "control: the first rung over itself", self.ratio(CONTROL, self.first)

    def whole_ratio(self, of: str, to: str, quantity: str) -> Ratio:
        samples = self.result["whole"]
        return ratio({name: [sample[quantity] for sample in samples[name]] for name in (of, to)}, of, to)

    def torch_wins(self) -> list[str]:
        """In what PyTorch, in whatever form, came out ahead of JAX in this measurement."""
        said: list[str] = []
        torch = [name for name, rung in self.rungs.items() if rung["kind"] == "torch"]
        if self.rungs[self.first]["kind"] != "jax" or not torch:
            return said
        mine = self.medians[self.first]
        for name in torch:
            if (found := self.ratio(self.first, name)).low > 1:
                said.append(f"{self.rungs[name]['name']} trains an epoch faster: ratio {found}")
        for quantity, what, unit in (
            ("ready_seconds", "ready for the first step, nothing kept from earlier runs", "s"),
            ("peak_megabytes", "peak memory", "MB"),
        ):
            name = min(torch, key=lambda name: self.medians[name][quantity])
            if (theirs := self.medians[name][quantity]) < mine[quantity]:
                said.append(
                    f"{what}: {theirs:.3g} {unit} ({self.rungs[name]['name']}) against {mine[quantity]:.3g} {unit}"
                )
        if {"floor-torch", "floor-jax"} <= self.rungs.keys():
            found = self.ratio("floor-jax", "floor-torch")
            if found.low > 1:
                said.append(f"the products alone: JAX's take {found} times as long as PyTorch's")
        for quantity, what in (("ready_seconds", "its first step"), ("total_seconds", "ten epochs")):
            for name in (JAX_FIRST, JAX_LATER) if self.result["whole"] else ():
                if (found := self.whole_ratio(name, TORCH, quantity)).low > 1:
                    said.append(f"`{name}` reaches {what} after {found} times as long as PyTorch's")
        said += _many_wins(self.result["many"])
        points: dict[tuple[int, tuple[int, ...]], dict[str, float]] = {}
        for point in self.result["sweep"]:
            key = point["batch_size"], tuple(point["hidden"])
            points.setdefault(key, {}).setdefault(point["rung"], float(np.median(point["epoch_seconds"])))
        for (batch_size, hidden), seconds in points.items():
            mine_here = seconds.pop(self.first, 0.0)
            for name in sorted(seconds, key=lambda name: seconds[name])[:1]:
                if mine_here > _CLEARLY * seconds[name]:
                    layers = "-".join(map(str, hidden))
                    said.append(
                        f"batches of {batch_size}, hidden layers of {layers}: {self.rungs[name]['name']}, ratio "
                        f"{mine_here / seconds[name]:.2f}, of one process each"
                    )
        return said


def _many_wins(many: Mapping[str, Any]) -> Iterator[str]:
    """The same way against the same, and the fastest against the fastest."""
    if not many:
        return
    figures = Figures(many)
    ways = [("jax-in-turn", "torch-in-turn"), ("jax-vmap", "torch-vmap"), (_SEEDS, figures.fastest_of("torch"))]
    for mine, theirs in ways:
        if {mine, theirs} <= figures.rungs.keys() and (found := figures.ratio(mine, theirs)).low > 1:
            names = (figures.rungs[name]["name"] for name in (theirs, mine))
            yield f"{many['models']} models, {' against '.join(names)}: ratio {found}"


def _setting(result: Result) -> str:
    config, environment = result["config"], result["environment"]
    versions: dict[str, str] = {}
    for rung in result["rungs"].values():
        versions |= rung["environment"]["versions"]
    listed = ", ".join(f"{name} {versions[name]}" for name in versions if name not in ("flax", "optax", "jaxlib"))
    widths = "-".join(map(str, (784, *config["hidden"], 10)))
    device = result["rungs"][result["first"]]["device"]
    cores = f"{result['cores']} cores{under_quota(environment.get('cpu_quota'))}"
    return (
        f"{environment['processor']}, {cores}, {device.upper() if device == 'cpu' else device}, "
        f"{environment['system']}, Python {environment['python']}, {listed}; {result['date']}. {widths}, batches of "
        f"{config['batch_size']}, {result['precision']}."
    )


_HEADINGS = ("", "an epoch", "× floor", "ready", "compile", "memory")


def _rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    floor = figures.fastest("floor")
    for name in figures.ordered():
        values = figures.medians[name]
        is_floor = figures.rungs[name]["kind"] == "floor"
        yield (
            figures.rungs[name]["name"],
            f"{values['epoch_seconds']:.3f} s",
            f"{values['epoch_seconds'] / figures.medians[floor]['epoch_seconds']:.2f}" if floor else "",
            "" if is_floor else f"{values['ready_seconds']:.1f} s",
            "" if is_floor else f"{values['compile_seconds']:.1f} s",
            "" if is_floor else f"{values['peak_megabytes']:.0f} MB",
        )


def _remarks(figures: Figures) -> Iterator[str]:
    yield from _quota_remarks(figures.result)
    for what, found in figures.ratios():
        yield f"{what}: {found}" + (f", {found.rounds} rounds" if found.is_interval else "")
    torch = figures.fastest("torch")
    if torch is not None and figures.rungs[figures.first]["kind"] == "jax":
        mine, theirs = figures.medians[figures.first], figures.medians[torch]
        ready, epoch = ((mine[key], theirs[key]) for key in ("ready_seconds", "epoch_seconds"))
        yield (
            f"from cold starts {figures.rungs[figures.first]['name']} is ahead of {figures.rungs[torch]['name']} "
            f"{break_even(ready, epoch)}, by the medians"
        )
    if figures.result["whole"]:
        for of, to, quantity, what in (
            (JAX_FIRST, TORCH, "total_seconds", "whole command, JAX the first time over PyTorch"),
            (JAX_LATER, TORCH, "total_seconds", "whole command, JAX later over PyTorch"),
            (JAX_LATER, ARTICLE, "total_seconds", "whole command, JAX later over the tutorial's program"),
            (JAX_LATER, JAX_FIRST, "ready_seconds", "until the first step, JAX later over the first time"),
            (JAX_GIVEN, TORCH_GIVEN, "to_target_seconds", f"until {_TARGET} are right, JAX over PyTorch"),
            (
                JAX_WATCHED,
                JAX_LATER,
                "run_seconds",
                "JAX, all steps, drawn on a dashboard over undrawn",
            ),
            (
                TORCH_WATCHED,
                TORCH,
                "run_seconds",
                "PyTorch, all steps, drawn on a dashboard over undrawn",
            ),
            (
                JAX_LATER,
                JAX_UNKEPT,
                "run_seconds",
                "JAX, all steps, with checkpoints over without",
            ),
            (
                TORCH,
                TORCH_UNKEPT,
                "run_seconds",
                "PyTorch, all steps, with checkpoints over without",
            ),
        ):
            if of in figures.result["whole"]:
                yield f"{what}: {figures.whole_ratio(of, to, quantity)}"
    yield from _many_remarks(figures.result["many"])


def _quota_remarks(result: Result) -> Iterator[str]:
    """A note on the seconds under a CPU quota that is not a whole number of cores."""
    quota, cores = result["environment"].get("cpu_quota"), result["cores"]
    if quota is None or quota % 1 == 0 or cores != max(1, int(quota)):  # the last where there are fewer cores anyway
        return
    if quota < 1:
        what = f"the kernel pauses each process, so that work of {quota:g} s on a whole core takes about 1 s here"
    else:
        what = f"products have a thread for each whole core of it ({cores}), and what is over is left idle"
    yield f"under a CPU quota of {quota:g} {what}; ratios hold for processes under this quota"


def _many_remarks(many: Mapping[str, Any]) -> Iterator[str]:
    if not many:
        return
    figures, n = Figures(many), many["models"]
    others = ["jax-in-turn"] if "jax-in-turn" in figures.rungs else []
    if torch := figures.fastest_of("torch"):
        others.append(torch)
    for name in others if _SEEDS in figures.rungs else ():
        names = f"{figures.rungs[_SEEDS]['name']} over {figures.rungs[name]['name']}"
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
_MANY_HEADINGS = ("several models", "how many", "epochs of a model", "ready", "compile")
_SEEDS = "jax-many"
_CLEARLY = 1.15
"""One process may be so much slower than another of the same rung."""


def _whole_rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    for name, samples in figures.result["whole"].items():
        values = medians(samples)
        keys = ("ready_seconds", "first_epoch_done_seconds", "to_target_seconds", "total_seconds")
        yield (name, *(f"{values[key]:.2f} s" if key in values else "" for key in keys))


def _many_rows(many: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    if not many:
        return
    figures, n = Figures(many), many["models"]
    for name in figures.ordered():
        values = figures.medians[name]
        yield (
            figures.rungs[name]["name"],
            str(n),
            f"{n / values['epoch_seconds']:.2f} /s",
            f"{values['ready_seconds']:.1f} s",
            f"{values['compile_seconds']:.1f} s",
        )


@dataclass(frozen=True)
class View:
    """What is said of a benchmark, wherever it is said."""

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
            (_MANY_HEADINGS, list(_many_rows(result["many"]))),
            (_WHOLE_HEADINGS, list(_whole_rows(figures))),
        ]
        return cls(
            _setting(result),
            [(headings, rows) for headings, rows in tables if rows],
            list(_remarks(figures)),
            [*result["left_out"].values(), *result["many"].get("left_out", {}).values()],
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


def draw(result: Result) -> bytes:
    """An SVG: every rung's processes on one axis; beside it, where swept, what an example costs."""
    figures = Figures(result)
    with style():
        swept = bool(result["sweep"])
        figure = Figure(figsize=(9, 6.4) if swept else (9, 3.4), layout="constrained")
        grid = figure.add_gridspec(2 if swept else 1, 2)
        _draw_epochs(figure.add_subplot(grid[0, :]), figures)
        for place, varied in enumerate(("batch size", "width") if swept else ()):
            _draw_sweep(figure.add_subplot(grid[1, place]), figures, varied)
        return to_svg(figure)


def _colour(figures: Figures, name: str) -> str:
    kinds = {"jax": COLOURS[0], "control": COLOURS[0], "torch": COLOURS[1], "peer": COLOURS[2]}
    return kinds.get(figures.rungs[name]["kind"], INK)


def _draw_epochs(axes: Any, figures: Figures) -> None:
    names = [*figures.ordered()[::-1], CONTROL]
    for place, name in enumerate(names):
        seconds, colour = figures.seconds[name], _colour(figures, name)
        axes.barh(place, np.median(seconds), color=colour, alpha=0.35, height=0.7)
        axes.plot(seconds, [place] * len(seconds), "|", color=colour, markersize=9)
    axes.set_yticks(range(len(names)), [figures.rungs[name]["name"] for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="seconds for an epoch; a bar is the median of the processes, a stroke one of them")
    axes.set_xlim(left=0)


def _draw_sweep(axes: Any, figures: Figures, varied: str) -> None:
    points = [point for point in figures.result["sweep"] if point["varied"] == varied]
    for name in dict.fromkeys(point["rung"] for point in points):
        mine = [point for point in points if point["rung"] == name]
        at = [point["batch_size"] if varied == "batch size" else point["hidden"][0] for point in mine]
        cost = [1e6 * float(np.median(point["epoch_seconds"])) / point["examples"] for point in mine]
        dashed = "--" if name == "torch-hand" else "-"
        axes.loglog(at, cost, dashed, marker=".", color=_colour(figures, name), label=figures.rungs[name]["name"])
    axes.set(xlabel=varied if varied == "batch size" else "width of the hidden layers", ylabel="µs an example")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.legend(frameon=False, fontsize=7)
    axes.grid(alpha=0.25)


if __name__ == "__main__":
    main()
