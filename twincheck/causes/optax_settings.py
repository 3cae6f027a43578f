"""Reads the settings of an optax transformation, which keeps them in the closures of its functions."""

from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

SCALES = ("scale_by_", "trace")
"""What starts the names of the transformations that a decoupled weight decay comes after."""


def optax_settings(transformation: Any) -> dict[str, Any]:
    """Returns the settings of each part as `{"scale_by_adam.b1": 0.9, ...}`.

    Also: each part's name with the value True; `decoupled`, whether weight decay is added after the gradients are
    scaled; `learning_rate`, if it is a constant.
    """
    parts = list(_parts(transformation.init, transformation.update))
    settings: dict[str, Any] = {}
    for name, values in parts:
        settings[name] = True
        settings |= {f"{name}.{key}": value for key, value in values.items()}
    names = [name for name, _ in parts]
    if "add_decayed_weights" in names:
        scales = [i for i, name in enumerate(names) if name.startswith(SCALES) and name != "scale_by_learning_rate"]
        settings["decoupled"] = bool(scales) and names.index("add_decayed_weights") > scales[0]
    if "scale.step_size" in settings:
        settings["learning_rate"] = -settings["scale.step_size"]
    return settings


def _parts(init: Any, update: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the name and the settings of each transformation of a chain, in order, given its two functions."""
    cells = _cells(init) | _cells(update)
    wrapped = [value for value in cells.values() if callable(getattr(value, "update", None)) and hasattr(value, "init")]
    for value in wrapped:
        yield from _parts(value.init, value.update)
    chained = "init_fns" in cells and "update_fns" in cells
    if chained:
        for one_init, one_update in zip(cells["init_fns"], cells["update_fns"], strict=True):
            yield from _parts(one_init, one_update)
    if not wrapped and not chained:
        name = update.__qualname__.partition(".")[0]
        yield name, {key: value for key, value in cells.items() if isinstance(value, (bool, int, float, str))}


def _cells(function: Any) -> dict[str, Any]:
    if not isinstance(function, FunctionType):
        return {}
    return {
        name: cell.cell_contents
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    }
