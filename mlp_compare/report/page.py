"""HTML page of a report about recorded runs."""

import base64
import io
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from mlp_compare.bench import picture, tables
from mlp_compare.figures import COLOURS, inline, style, to_svg
from mlp_workload.environment.description import numeric_settings
from mlp_workload.errors import UserError, escaped, refusal
from mlp_workload.metrics import confusion_matrix, group_means, recalls, worst
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.weights import load_weights, parameter_shapes

LARGEST_LOSS = 10.0
"""Largest loss drawn, in nats; guessing among 1,000 classes costs 6.9."""
_TOO_LARGE = 1e6
_LINES = ("-", "--", "-.", ":")
_DASHES = ("", "6 3", "7 3 2 3", "2 2")
"""`_LINES` in the key of the page."""


def render(runs: Sequence[RecordedRun], results: Sequence[Mapping[str, Any]]) -> str:
    """Returns the HTML of a page about `runs`, with control characters escaped.

    `results` are the contents of JSON files that parity, accuracy and bench write.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mlp_compare.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["sum_values"] = lambda parts: sum(parts.values())
    names = [run.folder.resolve().name for run in runs]
    if len(set(names)) < len(runs):
        names = [str(run.folder) for run in runs]
    template = environment.get_template("page.html.jinja")
    page = template.render(
        runs=[_view(run, name, i) for i, (run, name) in enumerate(zip(runs, names, strict=True))],
        settings=_rows([_settings(run) for run in runs]),
        environment=_rows([_environment(run) for run in runs]),
        batches=_batches(runs),
        curves=_curves(runs),
        parities=[result for result in results if "quantities" in result],
        accuracies=[result for result in results if "cells" in result],
        benchmarks=[
            (
                tables.View.of(result),
                inline(picture.draw(result), f"benchmark-{i}", "seconds for an epoch by library"),
            )
            for i, result in enumerate(results)
            if result.get("kind") == "benchmark"
        ],
    )
    return escaped(page)


def _view(run: RecordedRun, name: str, number: int) -> dict[str, Any]:
    last = run.evaluations[-1] if run.evaluations else None
    return {
        "name": name,
        "colour": COLOURS[number % len(COLOURS)],
        "dashes": _DASHES[number % len(_DASHES)],
        "framework": f"{run.framework} {run.fact('framework_version')}",
        "device": run.fact("device"),
        "last": last,
        "finished": run.summary is not None,
        "epochs": run.config.epochs,
        "warnings": run.warnings,
        "timing": _timing(run),
        **_mistakes(run),
        "weights": _first_layer(run),
    }


NOT_RECORDED = "not recorded"
"""Threads of a run of version 0.1; not counted as a different setting."""


def _settings(run: RecordedRun) -> dict[str, str]:
    """Returns the configuration and all other settings that may change numbers.

    A setting that changed when the run was resumed has each of its values.
    """
    stretches: list[dict[str, Any]] = [
        {"framework": facts.get("framework")} | numeric_settings(facts.get("environment")) for facts in run.all_facts
    ]
    settings = {}
    for name in dict.fromkeys(name for stretch in ({"threads": 0}, *stretches) for name in stretch):
        missing = NOT_RECORDED if name == "threads" else "unset"
        values = (_text(stretch.get(name, missing)) for stretch in stretches)
        settings[name] = ", then ".join(value for value, _ in itertools.groupby(values))
    config = {name.replace("_", " "): _text(value) for name, value in vars(run.config).items() if name != "run_dir"}
    return settings | config


def _environment(run: RecordedRun) -> dict[str, str]:
    flat: dict[str, str] = {"device": run.fact("device")}
    for name, value in run.fact("environment", dict).items():
        entries = value if isinstance(value, Mapping) else {name.replace("_", " "): value}
        flat |= {key: _text(entry) for key, entry in entries.items()}
    return flat


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(str, value)) or "none"
    return str(value)


def _rows(columns: Sequence[Mapping[str, str]]) -> dict[str, list[tuple[str, list[str]]]]:
    """Returns rows (name, values by run), separated into different and same ones."""
    rows: dict[str, list[tuple[str, list[str]]]] = {"different": [], "same": []}
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column.get(name, "") for column in columns]
        rows["different" if len({*values} - {NOT_RECORDED}) > 1 else "same"].append((name, values))
    return rows


def _batches(runs: Sequence[RecordedRun]) -> str:
    digests = [[event.labels_digest for event in run.trained] for run in runs]
    epochs = min(map(len, digests))
    if len(runs) == 1 or epochs == 0:
        return ""
    if any(digest[:epochs] != digests[0][:epochs] for digest in digests):
        return "The runs saw the examples in different orders."
    order = "All runs saw the examples in the same order"
    if len(set(map(len, digests))) > 1:
        order += f", as far as the shortest went, {epochs} epoch{'s' if epochs > 1 else ''}"
    return order + (", in batches of different sizes." if len({run.config.batch_size for run in runs}) > 1 else ".")


def _timing(run: RecordedRun) -> dict[str, float]:
    """Returns seconds by part; without a summary only those in the events."""
    if run.summary is None:
        train = sum(event.seconds for event in run.trained)
        return {"train": train, "evaluate": sum(event.seconds for event in run.evaluations)}
    try:
        parts = {part: float(run.summary[f"{part}_seconds"]) for part in ("compile", "train", "evaluate")}
        return parts | {"start, data, rest": float(run.summary["total_seconds"]) - sum(parts.values())}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.folder}: its summary does not say how long it took ({refusal(error)})") from error


def _mistakes(run: RecordedRun) -> dict[str, Any]:
    """Returns the confusion matrix and pictures of mistakes of the last evaluation."""
    if run.dataset is None or not run.evaluations:
        return {"classes": (), "confusion": (), "mistakes": (), "mistaken": 0}
    test, names = run.dataset.test, run.dataset.class_names
    images = run.dataset.upright(test.images)
    mistakes = run.evaluations[-1].mistakes
    predictions = mistakes.predicted(test.labels, len(names))
    confusion = confusion_matrix(test.labels, predictions, len(names))
    classes = recalls(confusion, names)
    shown = list(zip(mistakes.examples, mistakes.predictions, strict=True))[:40]
    return {
        "classes": names,
        "confusion": confusion.tolist(),
        "recalls": classes,
        "worst": worst(classes),
        "mistaken": len(mistakes.examples),
        "mistakes": [
            {
                "picture": _png(images[example]),
                "example": example,
                "label": names[test.labels[example]],
                "prediction": names[prediction],
            }
            for example, prediction in shown
        ],
    }


def _first_layer(run: RecordedRun) -> dict[str, Any]:
    """Returns a picture with the weights of each unit as a tile, or why there is none."""
    path = run.folder / "weights.safetensors"
    if not os.path.lexists(path):
        return {"why": "The run did not get so far as to save its weights."}
    if run.dataset is None:
        return {"why": "The data set is gone, and with it the shape of its images."}
    shapes = parameter_shapes(run.config.widths(run.dataset.pixels, run.dataset.classes))
    try:
        weights = load_weights(path, shapes)["layers.0.weight"].astype(float)
    except UserError as error:
        return {"why": f"The weights are of no use: {error}."}
    height, width = run.dataset.test.images.shape[1:]
    units = run.dataset.upright(weights[:200].reshape(-1, height, width))
    height, width = units.shape[1:]
    reach = float(np.quantile(np.abs(units), 0.998)) or 1.0
    columns = min(20, len(units))
    rows = -(-len(units) // columns)
    tiles = np.full((rows * columns, height + 2, width + 2), 128, np.uint8)
    tiles[: len(units), 1:-1, 1:-1] = np.clip(128 + 127 * units / reach, 0, 255)
    sheet = tiles.reshape(rows, columns, height + 2, width + 2).swapaxes(1, 2)
    palette = colormaps["RdBu"](np.arange(256), bytes=True)[:, :3]
    picture = _png(sheet.reshape(rows * (height + 2), columns * (width + 2)), palette)
    return {"picture": picture, "shown": len(units), "units": len(weights), "reach": reach}


def _png(pixels: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8] | None = None) -> str:
    """Returns grey `pixels` (height, width), or indices into a `palette` (256, 3), as a data URL of a PNG file."""
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _curves(runs: Sequence[RecordedRun]) -> list[str]:
    titles = {"training loss": "nats, mean of a batch", "test loss": "nats", "test accuracy": ""}
    figures = []
    with style():
        for title, unit in titles.items():
            figure = Figure(figsize=(4.6, 3), layout="constrained")
            axes = figure.subplots()
            axes.set(title=title, xlabel="step", ylabel=unit)
            axes.grid(alpha=0.25)
            for number, run in enumerate(runs):
                line: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)]}
                line["linestyle"] = _LINES[number % len(_LINES)]
                if title == "training loss":
                    _draw_training(axes, run, line)
                else:
                    name = title.replace(" ", "_")
                    points = [(evaluation.step, getattr(evaluation, name)) for evaluation in run.evaluations]
                    steps, values = np.reshape(points, (-1, 2)).T
                    axes.plot(steps, _drawable(values), marker=".", **line)
            if axes.get_ylim()[1] > LARGEST_LOSS:  # a run that diverged would flatten all other curves
                axes.set_ylim(0, LARGEST_LOSS)
            figures.append(inline(to_svg(figure), title.replace(" ", "-"), f"{title} by step"))
    return figures


def _drawable(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Returns `values` clipped to a range that does not overflow in sums, and is far outside the axes."""
    return np.clip(np.asarray(values, np.float64), -_TOO_LARGE, _TOO_LARGE)


def _draw_training(axes: Any, run: RecordedRun, line: Mapping[str, Any]) -> None:
    """Draws means of up to 300 groups of steps, in a band from the smallest to the largest loss of each."""
    losses = _drawable(run.train_losses)
    if not len(losses):
        return
    size = -(-len(losses) // 300)
    starts = np.arange(0, len(losses), size)
    steps = starts + (np.diff(starts, append=len(losses)) + 1) / 2
    means = group_means(losses, run.batch_sizes, size)
    low, high = np.minimum.reduceat(losses, starts), np.maximum.reduceat(losses, starts)
    axes.fill_between(steps, low, high, color=line["color"], alpha=0.15, linewidth=0)
    axes.plot(steps, means, **line)
