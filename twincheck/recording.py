"""One pass through a model: the calls of its modules, with what goes into and comes out of each, both ways.

Both frameworks record with the same `Recorder`, and both can be handed values in place of their own, so that one model
computes every module from the other's tensors.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Place(NamedTuple):
    """A tensor of a pass: one input or output of the call `number` of the module at `path`, or its gradient."""

    path: str
    number: int
    port: Literal["input", "output"]
    index: int
    gradient: bool = False

    def __str__(self) -> str:
        call = f"call {self.number} of " if self.number else ""
        return f"{call}{self.path or 'the model'}, {self.port} {self.index}{' gradient' if self.gradient else ''}"


@dataclass
class Call:
    """One call of a module.

    `parameters` are the arrays that the module owns itself, by their names in it; `settings` its plain attributes, such
    as an epsilon. `parents` are the paths of the modules whose calls this one is part of.
    """

    path: str
    number: int
    kind: str
    parameters: Mapping[str, Array]
    settings: Mapping[str, Any]
    parents: tuple[str, ...]
    inputs: list[Array] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)
    input_gradients: dict[int, Array] = field(default_factory=dict)
    output_gradients: dict[int, Array] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        return self.path, self.number

    def at(self, place: Place) -> Array | None:
        """Returns the value at one of the call's places."""
        if place.gradient:
            return (self.input_gradients if place.port == "input" else self.output_gradients).get(place.index)
        values = self.inputs if place.port == "input" else self.outputs
        return values[place.index] if place.index < len(values) else None

    def __str__(self) -> str:
        return f"{self.path or 'the model'}{f' (call {self.number})' if self.number else ''}"


@dataclass
class Recording:
    """The calls of a pass in their order, the arrays that the model returned, and its parameters' gradients by name."""

    calls: list[Call]
    outputs: list[Array]
    gradients: Mapping[str, Array] = field(default_factory=dict)


Force = Callable[[Place, Array], Array | None]
"""Returns what a place is to hold in place of the value that it was given, or None to leave it."""


class Recorder:
    """Collects the calls of one pass. `force` may put other values in place of those that the model computes.

    `state` are the arrays that the pass leaves changed, such as running statistics, by their names in the model.
    """

    def __init__(self, force: Force | None = None) -> None:
        self.calls: list[Call] = []
        self.state: dict[str, Any] = {}
        self._force = force
        self._by_key: dict[tuple[str, int], Call] = {}
        self._running: list[str] = []

    def begin(self, path: str, kind: str, parameters: Mapping[str, Array], settings: Mapping[str, Any]) -> Call:
        """Enters a call of the module at `path`."""
        number = sum(call.path == path for call in self.calls)
        call = Call(path, number, kind, parameters, settings, tuple(self._running))
        self.calls.append(call)
        self._by_key[call.key] = call
        self._running.append(path)
        return call

    def end(self) -> None:
        """Leaves the call that was entered last."""
        self._running.pop()

    def is_running(self, path: str) -> bool:
        return path in self._running

    @property
    def innermost(self) -> str:
        return self._running[-1] if self._running else ""

    def visit(self, place: Place, value: Array) -> Array | None:
        """Records the value at a place; returns the value to go on with, or None for this one."""
        call = self._by_key[place.path, place.number]
        if place.gradient:
            gradients = call.input_gradients if place.port == "input" else call.output_gradients
            gradients[place.index] = value
        else:
            (call.inputs if place.port == "input" else call.outputs).append(value)
        return self._force(place, value) if self._force else None


def is_float(array: Any) -> bool:
    """Tells whether an array holds floating-point numbers, bfloat16 and float8 included."""
    return bool(np.issubdtype(array.dtype, np.floating)) or np.dtype(array.dtype).kind == "V"


def leaves(value: Any, is_array: Callable[[Any], bool]) -> Iterator[Any]:
    """Yields the arrays in nested tuples, lists, mappings and dataclasses, in order."""
    if is_array(value):
        yield value
    elif (parts := _parts(value)) is not None:
        for _, part in parts:
            yield from leaves(part, is_array)


def map_leaves(function: Callable[[Any], Any], value: Any, is_array: Callable[[Any], bool]) -> Any:
    """Returns `value` with `function` applied to each of its arrays; other things stay as they are."""
    if is_array(value):
        return function(value)
    if (parts := _parts(value)) is None:
        return value
    mapped = [(key, map_leaves(function, part, is_array)) for key, part in parts]
    if isinstance(value, tuple):
        items = [part for _, part in mapped]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [part for _, part in mapped]
    result = copy.copy(value)
    for key, part in mapped:
        if isinstance(value, Mapping):
            result[key] = part  # type: ignore[index]  # a copy of a mapping that was filled once
        else:
            object.__setattr__(result, key, part)
    return result


def _parts(value: Any) -> Iterable[tuple[Any, Any]] | None:
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if isinstance(value, Mapping):
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not callable(value):
        return [(part.name, getattr(value, part.name)) for part in dataclasses.fields(value)]
    return None


def plain_settings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those attributes that are numbers, strings, tuples of such, or functions (by name)."""

    def plain(value: Any) -> bool:
        return value is None or isinstance(value, bool | int | float | str) or (
            isinstance(value, tuple | list) and all(map(plain, value))
        )

    found = {name: value for name, value in attributes.items() if plain(value)}
    functions = {
        name: value.__name__
        for name, value in attributes.items()
        if callable(value) and hasattr(value, "__name__") and not isinstance(value, type)
    }
    return found | functions
