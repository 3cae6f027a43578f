"""Tables and picture of `scaling.md`, from a measurement of `experiments.scaling`."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from experiments.scaling.break_even import Devices, batch_from, width_from
from experiments.scaling.cost_fit import Fit, fit
from experiments.scaling.cost_model import counts
from experiments.scaling.gpu import INFINIBAND, MEASURED_OPERATIONS, NVLINK, PEAK_OPERATIONS, gpu_costs
from experiments.scaling.measure import FORMAT, Run
from mlp_compare.figures import COLOURS, INK, style, to_svg
from mlp_workload.cli.parse import one_line_errors, parse
from mlp_workload.environment.description import under_quota
from mlp_workload.errors import UserError, refusal
from mlp_workload.files import clear_write_errors, expand, read_at_most, read_json, write_atomically

PROGRAM = "python -m experiments.scaling.report"
JAX, JAX_PROCESSES, TORCH = "JAX, devices of one process", "JAX, a process each", "PyTorch, a process each"
DOCUMENT, MEASURED, PICTURE = "scaling.md", "scaling.json", "scaling.svg"
BLOCKS = ("setting", "costs", "quality", "timings", "cpu", "gpu-step", "gpu-batch", "gpu-width")
"""Tables of the document, by the names in its marks."""
_BLOCK = re.compile(r"^<!-- scaling: ([a-z-]+) -->\n(.*?)^<!-- end -->$", re.M | re.S)
_SLOW, _FAST = MEASURED_OPERATIONS, PEAK_OPERATIONS


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Rewrites the tables of a folder's scaling.md, and scaling.svg, from its scaling.json."""

    folder: Annotated[Path, tyro.conf.Positional]


def main() -> None:
    with one_line_errors(PROGRAM):
        folder = expand(parse(Shown, sys.argv[1:], prog=PROGRAM).folder)
        rewrite(folder, read(folder / MEASURED))


def read(path: Path) -> "Scaling":
    """Returns the measurement in the file `path`. Raises `UserError` if it is something else."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != "scaling":
        raise UserError(f"{path} is not what experiments.scaling writes by --json")
    if content.get("format") != FORMAT:
        raise UserError(f"{path} has format {content.get('format')}, this reads {FORMAT}")
    try:
        scaling = Scaling(content)
        scaling.blocks()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{path} is not a whole measurement ({refusal(error)})") from error
    return scaling


def rewrite(folder: Path, scaling: "Scaling") -> None:
    """Writes the tables of the document and the picture. Raises `UserError` as `marked` does."""
    document, picture = folder / DOCUMENT, folder / PICTURE
    text = filled(marked(document), scaling.blocks())
    with clear_write_errors(document):
        write_atomically(document, text.encode())
    with clear_write_errors(picture):
        write_atomically(picture, draw(scaling))


def marked(document: Path) -> str:
    """Returns the text of the document. Raises `UserError` unless it has a mark for each table in `BLOCKS`."""
    text = read_at_most(document, 2**20).decode(errors="replace")
    names = [block[1] for block in _BLOCK.finditer(text)]
    if sorted(names) != sorted(BLOCKS):
        raise UserError(f"{document} marks the tables {', '.join(names) or 'not at all'}; needed: {', '.join(BLOCKS)}")
    return text


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """Returns `text` with `blocks` between its marks."""
    return _BLOCK.sub(lambda block: f"<!-- scaling: {block[1]} -->\n{blocks[block[1]]}\n<!-- end -->", text)


class Scaling:
    """A measurement, the costs fitted to it, and predictions."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        self.result = result
        self.cores = int(result["cores"])
        names = Run.__dataclass_fields__
        self.seconds = {
            Run(**{name: run[name] for name in names}): float(np.median(run["step_seconds"])) for run in result["runs"]
        }

    def devices(self, run: Run) -> Devices:
        return Devices(run.devices, run.split_hidden, self.cores)

    @cached_property
    def ways(self) -> dict[str, list[Run]]:
        """Runs by way of training; each way has a set of costs."""
        whole = [run for run in self.seconds if run.split_hidden == 1]
        jax = [run for run in whole if run.framework == "jax"]
        return {
            JAX: [run for run in jax if run.processes == 1],
            JAX_PROCESSES: [run for run in jax if run.processes == run.devices],
            TORCH: [run for run in whole if run.framework == "torch"],
        }

    @cached_property
    def fits(self) -> dict[str, Fit]:
        return {
            way: fit(
                [counts(run.widths, run.batch_size, run.devices, self.cores) for run in runs],
                [self.seconds[run] for run in runs],
                [(run.width, run.batch_size) for run in runs],
            )
            for way, runs in self.ways.items()
        }

    @cached_property
    def predicted(self) -> dict[Run, float]:
        """Seconds of a step of each run with split hidden layers, by costs fitted to the other runs."""
        costs = self.fits[JAX].costs
        return {
            run: self.devices(run).seconds(costs, run.config.hidden, run.batch_size)
            for run in self.seconds
            if run.split_hidden > 1
        }

    def blocks(self) -> dict[str, str]:
        """Returns the tables of the document by name."""
        return {
            "setting": self._setting(),
            "costs": _table(("", *self.fits), self._cost_rows()),
            "quality": _table(
                ("", "timings", "fitted: median", "largest", "held out: median", "largest"), self._quality_rows()
            ),
            "timings": _table(
                ("", "width", "batch", "1 device", "2 devices", "4 devices", "8 devices"), self._timing_rows()
            ),
            "cpu": _table(("faster than one from a batch of", "width 50", "width 200", "width 800"), self._cpu_rows()),
            "gpu-step": _table(("784-200-200-10, batches of 200", "1 GPU", "2 GPUs", "8 GPUs"), _gpu_step_rows()),
            "gpu-batch": _table(
                ("faster than one from a batch of", *(f"width {width:,}" for width in _WIDTHS)), _gpu_batch_rows()
            ),
            "gpu-width": _table(
                ("eight GPUs faster than one from a width of", *(f"batch {size:,}" for size in _BATCHES)),
                _gpu_width_rows(),
            ),
        }

    def _setting(self) -> str:
        environment = self.result["environment"]
        versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
        rounds = len(self.result["runs"][0]["step_seconds"])
        cores = f"{self.cores} cores{under_quota(environment.get('cpu_quota'))}"
        return (
            f"{environment['processor']}, {cores}, {environment['system']}, Python {environment['python']}, "
            f"{versions}; {self.result['date']}. {len(self.seconds)} settings; rounds: {rounds}."
        )

    def _cost_rows(self) -> Iterator[tuple[str, ...]]:
        for name, (title, number) in _UNITS.items():
            row = [title]
            for fitted in self.fits.values():
                if name in fitted.unidentified:
                    row.append("not told apart")
                    continue
                value, low, high = (number(getattr(costs, name)) for costs in (fitted.costs, fitted.low, fitted.high))
                row.append(f"{value} ({low} to {high})" if number is _microseconds else f"{value} ({high} to {low})")
            yield tuple(row)

    def _quality_rows(self) -> Iterator[tuple[str, ...]]:
        for way, result in self.fits.items():
            measured = np.array([self.seconds[run] for run in self.ways[way]])
            errors = [abs(model / measured - 1) for model in (result.fitted, result.held_out)]
            cells = [_percent(number) for error in errors for number in (np.median(error), np.max(error))]
            yield (way, str(len(measured)), *cells)
        off = [abs(model / self.seconds[run] - 1) for run, model in self.predicted.items()]
        yield ("JAX, --split-hidden 2", str(len(off)), "", "", _percent(np.median(off)), _percent(np.max(off)))

    def _timing_rows(self) -> Iterator[tuple[str, ...]]:
        for way, runs in self.ways.items():
            result, cells = self.fits[way], dict[tuple[int, int, int], str]()
            for run, fitted, held_out in zip(runs, result.fitted, result.held_out, strict=True):
                cells[run.width, run.batch_size, run.devices] = _cell(self.seconds[run], fitted, held_out)
            yield from _by_network(way, cells)
        cells = {
            (run.width, run.batch_size, run.devices): _cell(self.seconds[run], seconds)
            for run, seconds in self.predicted.items()
        }
        yield from _by_network("JAX, --split-hidden 2", cells)

    def _cpu_rows(self) -> Iterator[tuple[str, ...]]:
        one = Devices(1, cores=self.cores)
        for way, result in self.fits.items():
            for number in sorted({run.devices for run in self.ways[way]} - {1}):
                many = Devices(number, cores=self.cores)
                sizes = [batch_from(result.costs, width, many, one) for width in (50, 200, 800)]
                yield (f"{way}: {number}", *(_from(size) for size in sizes))


def _digits(number: float) -> str:
    """Returns the number with three digits, or with all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _microseconds(cost: float) -> str:
    return _digits(1e6 * cost)


def _giga(cost: float) -> str:
    """Returns how many thousand millions fit into a second."""
    return _digits(1e-9 / cost) if cost else "∞"


_UNITS = {
    "launch": ("a launch, µs", _microseconds),
    "operation_alone": ("products, one device with all cores, GFLOP/s", _giga),
    "operation_shared": ("products, a core of several, GFLOP/s", _giga),
    "byte_updated": ("update of parameters, GB/s", _giga),
    "meeting": ("a meeting, µs", _microseconds),
    "hop": ("a hop, µs", _microseconds),
    "byte_exchanged": ("gradients exchanged, GB/s", _giga),
}
_WIDTHS, _BATCHES = (200, 500, 1000, 4000), (20, 200, 2000)


def _percent(share: Any) -> str:
    return f"{100 * share:.0f} %"


def _cell(measured: float, *predicted: float) -> str:
    off = ", ".join(f"{round(100 * (by / measured - 1)):+d} %" for by in predicted)
    return f"{_digits(1e3 * measured)} ms ({off})"


def _by_network(way: str, cells: Mapping[tuple[int, int, int], str]) -> Iterator[tuple[str, ...]]:
    for width, batch_size in dict.fromkeys(key[:2] for key in cells):
        yield (way, str(width), f"{batch_size:,}", *(cells.get((width, batch_size, n), "") for n in (1, 2, 4, 8)))


def _from(number: int | None) -> str:
    return "never" if number is None else f"{number:,}"


def _between(numbers: Sequence[int | None]) -> str:
    first, last = map(_from, numbers)
    return first if first == last else f"{first} to {last}"


def _gpu_step_rows() -> Iterator[tuple[str, ...]]:
    for link in (NVLINK, INFINIBAND):
        for what, operations in (("products as slow as measured", _SLOW), ("products at the peak", _FAST)):
            costs = gpu_costs(link, operations)
            steps = [Devices(number).seconds(costs, (200, 200), 200) for number in (1, 2, 8)]
            yield (f"{link.name}, {what}", *(f"{1e6 * step:.0f} µs" for step in steps))


def _gpu_batch_rows() -> Iterator[tuple[str, ...]]:
    for link in (NVLINK, INFINIBAND):
        for number in (2, 8):
            row = [
                _between([batch_from(gpu_costs(link, o), width, Devices(number), Devices(1)) for o in (_SLOW, _FAST)])
                for width in _WIDTHS
            ]
            yield (f"{number} GPUs, {link.name}", *row)


def _gpu_width_rows() -> Iterator[tuple[str, ...]]:
    data, split = Devices(8), Devices(8, split_hidden=8)
    for link in (NVLINK, INFINIBAND):
        for what, many, than in (
            ("batches shared", data, Devices(1)),
            ("hidden layers split", split, Devices(1)),
            ("split faster than shared", split, data),
        ):
            row = [
                _between([width_from(gpu_costs(link, o), size, many, than) for o in (_SLOW, _FAST)])
                for size in _BATCHES
            ]
            yield (f"{what}, {link.name}", *row)


def _table(headings: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("  ", " ")


def draw(scaling: Scaling) -> bytes:
    """Returns an SVG: the time of a step by devices of one process, and predictions against all timings."""
    with style():
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        steps, against = figure.subplots(1, 2)
        _draw_steps(steps, scaling)
        _draw_against(against, scaling)
        return to_svg(figure)


def _draw_steps(axes: Any, scaling: Scaling) -> None:
    runs, costs = scaling.ways[JAX], scaling.fits[JAX].costs
    for colour, (width, size) in zip(COLOURS, dict.fromkeys((run.width, run.batch_size) for run in runs), strict=False):
        network = [run for run in runs if (run.width, run.batch_size) == (width, size)]
        numbers = [run.devices for run in network]
        axes.plot(numbers, [1e3 * scaling.seconds[run] for run in network], "o", color=colour, markersize=5)
        by_model = [1e3 * scaling.devices(run).seconds(costs, run.config.hidden, size) for run in network]
        axes.plot(numbers, by_model, "-", color=colour, label=f"width {width}, batch {size:,}")
    axes.set(xscale="log", yscale="log", xlabel="devices of one JAX process", ylabel="ms a step")
    axes.set_xticks([1, 2, 4, 8])
    axes.set_title(f"points measured on {scaling.cores} cores, lines fitted", fontsize=9, color=INK)
    _finish(axes)


def _draw_against(axes: Any, scaling: Scaling) -> None:
    marks = dict(zip(scaling.ways, ("o", "^", "s"), strict=True))
    for colour, (way, runs) in zip((COLOURS[0], COLOURS[2], COLOURS[1]), scaling.ways.items(), strict=True):
        measured = [1e3 * scaling.seconds[run] for run in runs]
        axes.plot(measured, 1e3 * scaling.fits[way].held_out, marks[way], color=colour, markersize=5, label=way)
    split = scaling.predicted
    axes.plot(
        [1e3 * scaling.seconds[run] for run in split], [1e3 * by for by in split.values()], "x", color=COLOURS[3],
        label="JAX, --split-hidden 2",
    )  # fmt: skip
    ends = axes.get_xlim()
    axes.plot(ends, ends, "-", color=INK, linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="ms a step, measured", ylabel="ms a step, predicted")
    axes.set_title("each network by a fit to the others", fontsize=9, color=INK)
    _finish(axes)


def _finish(axes: Any) -> None:
    """Puts the legend above the points and writes plain numbers at the axes."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.25)
    axes.legend(frameon=False, fontsize=7, loc="upper left", ncols=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)


if __name__ == "__main__":
    main()
