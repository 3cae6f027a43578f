"""One pass through a model: the calls of its modules, with what goes into and comes out of each, both ways.

Both frameworks record with the same `Recorder`, and both can be handed values in place of their own, so that one model
computes every module from the other's tensors.
"""

import contextlib
import copy
import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mlp_workload.errors import UserError

Array = npt.NDArray[Any]

SOWN = "sow"
"""Kind of the calls that `sow` records, which have an output alone."""


class Place(NamedTuple):
    """A tensor of a pass: one input or output of the call `number` of the module at `path`, or its gradient."""

    path: str
    number: int
    port: Literal["input", "output"]
    index: int  # type: ignore[assignment]  # instead of tuple.index
    gradient: bool = False

    def __str__(self) -> str:
        call = f"call {self.number} of " if self.number else ""
        return f"{call}{self.path or 'the model'}, {self.port} {self.index}{' gradient' if self.gradient else ''}"


class Shape(NamedTuple):
    """The shape of a parameter, in place of its values."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


@dataclass
class Call:
    """One call of a module.

    `parameters` are the shapes of those that the module owns itself, by their names in it; `settings` its plain
    attributes, such as an epsilon. `parents` are the paths of the modules whose calls this one is part of.
    """

    path: str
    number: int
    kind: str
    parameters: Mapping[str, Shape]
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

    def forget(self) -> None:
        """Leaves the shapes of the values alone."""
        for values in (self.inputs, self.outputs):
            values[:] = [np.broadcast_to(np.zeros((), array.dtype), array.shape) for array in values]

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


Cotangents = Callable[[Sequence[Array]], Sequence[Array]]
"""Returns the gradients of the model's outputs, given these."""


class Enough(Exception):
    """Raised by what forces values, to break a pass off that has shown what it was run for."""


@dataclass
class Patched:
    """Counts how often the replacements of a patch were called."""

    used: int = 0


@dataclass(frozen=True)
class Patch:
    """Changes how the given module objects compute, and the libraries that they call, until the context ends.

    A function that JAX has compiled before is not traced again: run the pass under `jax.disable_jit()`.

    Attributes:
        apply: returns the context for the modules.
        names: the functions and methods that it replaces, by qualified name; None if these depend on the modules.
    """

    apply: Callable[[Sequence[object]], contextlib.AbstractContextManager[Patched]]
    names: frozenset[str] | None = None

    def __call__(self, modules: Sequence[object]) -> contextlib.AbstractContextManager[Patched]:
        return self.apply(modules)


class Recorder:
    """Collects the calls of one pass. `force` may put other values in place of those that the model computes.

    `stacks` has the paths of modules that hold several layers and are called once for each, with their number. Layer i
    of the module at "layers" is recorded at "layers.i". The modules at the paths in `settings` have those attributes
    while they are called, and `patches` change how modules compute. A `silent` recorder is shown nothing: it is for
    passes that are compiled.

    `state` are the arrays that the pass leaves changed, such as running statistics, by their names in the model.
    """

    def __init__(
        self,
        force: Force | None = None,
        stacks: Mapping[str, int] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        patches: Sequence[Patch] = (),
        *,
        silent: bool = False,
    ) -> None:
        self.settings = settings or {}
        self._patches = patches
        self.backward = True
        self.silent = silent
        self.calls: list[Call] = []
        self.state: dict[str, Any] = {}
        self._force = force
        self._stacks = stacks or {}
        self._entered: dict[tuple[str, int], tuple[Call, list[Call]]] = {}
        self._recorded: set[tuple[str, int]] = set()
        self._running: list[tuple[str, Call]] = []
        self._recent = deque[Array](maxlen=4)  # what one module returns and the next is given is kept once
        self._begun, self._seen, self._numbers = Counter[str](), Counter[str](), Counter[str]()

    def begin(
        self, path: str, kind: str, parameters: Mapping[str, Shape], settings: Mapping[str, Any]
    ) -> tuple[str, int]:
        """Enters a call of the module at `path`; returns the path and number under which its values are to be shown.

        The call is recorded with its first value: JAX also traces calls that it never runs.
        """
        key = path, self._begun[path]
        self._begun[path] += 1
        call = Call(*key, kind, parameters, settings, ())
        self._entered[key] = call, [parent for _, parent in self._running]
        self._running.append((path, call))
        return key

    def _record(self, key: tuple[str, int]) -> Call:
        """Returns the call that was entered as `key`, with its final path and number."""
        call, parents = self._entered[key]
        if key not in self._recorded:
            self._recorded.add(key)
            path = key[0]
            for stack, length in self._stacks.items():
                if path == stack or path.startswith(f"{stack}."):
                    within = [p.path for p in parents if p.path.rpartition(".")[0] == stack]
                    layer = within[-1] if within else f"{stack}.{self._seen[path] % length}"
                    call.path = layer + path.removeprefix(stack)
            self._seen[path] += 1
            call.number = self._numbers[call.path]
            self._numbers[call.path] += 1
            call.parents = tuple(parent.path for parent in parents)
            self.calls.append(call)
        return call

    @contextlib.contextmanager
    def patched(self, modules: Sequence[object]) -> Iterator[None]:
        """Applies the patches to the model's modules until the context ends."""
        with contextlib.ExitStack() as contexts:
            for patch in self._patches:
                contexts.enter_context(patch(modules))
            yield

    def end(self) -> None:
        """Leaves the call that was entered last."""
        self._running.pop()

    def is_running(self, path: str) -> bool:
        return any(path == other for other, _ in self._running)

    def visit(self, place: Place, value: Array) -> Array | None:
        """Records the value at a place; returns the value to go on with, or None for this one."""
        call = self._record((place.path, place.number))
        place = place._replace(path=call.path, number=call.number)
        value = next((array for array in self._recent if _same(array, value)), value)
        self._recent.append(value)
        if place.gradient:
            gradients = call.input_gradients if place.port == "input" else call.output_gradients
            gradients[place.index] = value
        else:
            values = call.inputs if place.port == "input" else call.outputs
            values.extend(np.empty(0) for _ in range(place.index + 1 - len(values)))
            values[place.index] = value  # again where the backward pass computes it anew
        return self._force(place, value) if self._force else None


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b)


_sow: ContextVar[Callable[[str, Any], Any] | None] = ContextVar("twincheck_sow", default=None)


@contextlib.contextmanager
def sowing(show: Callable[[str, Any], Any]) -> Iterator[None]:
    """Has `sow` show its values to the pass that runs."""
    token = _sow.set(show)
    try:
        yield
    finally:
        _sow.reset(token)


def sow(name: str, value: Any) -> Any:
    """Returns `value`, and makes it a place to compare with the output of torch's module `name`, or what torch sows so.

    Outside of a check it does nothing.
    """
    show = _sow.get()
    return value if show is None else show(name, value)


def is_float(array: Any) -> bool:
    """Tells whether an array holds floating-point numbers, bfloat16 and float8 included."""
    return bool(np.issubdtype(array.dtype, np.floating)) or np.dtype(array.dtype).kind == "V"


def has_shape(value: Any) -> bool:
    """Tells whether a value is an array of any framework."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


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
    if isinstance(value, Mapping) and hasattr(value, "__dataclass_fields__"):  # a ModelOutput
        return dataclasses.replace(value, **dict(mapped))  # type: ignore[type-var]
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return type(value)(dict(mapped))  # type: ignore[call-arg]
    result = copy.copy(value)
    for key, part in mapped:
        if isinstance(result, MutableMapping):
            result[key] = part
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
        return (
            value is None
            or isinstance(value, bool | int | float | str)
            or (isinstance(value, tuple | list) and all(map(plain, value)))
        )

    found = {name: value for name, value in attributes.items() if plain(value)}
    functions = {
        name: value.__name__
        for name, value in attributes.items()
        if callable(value) and hasattr(value, "__name__") and not isinstance(value, type)
    }
    return found | functions


def invoke(call: Callable[..., Any] | None, model: Any, inputs: Any) -> Any:
    """Runs a model, by `call` if given: a tuple holds positional arguments, a mapping keyword arguments."""
    if call is not None:
        return call(model, *inputs) if isinstance(inputs, tuple) else call(model, inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def reason(error: Exception) -> str:
    """Returns the first line of an error's message."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), "no reason given")


def require_dtype(dtype: str) -> None:
    """Raises `UserError` if `dtype` is not one in which models are compared."""
    if dtype not in ("float32", "float64"):
        raise UserError(f'dtype is "float32" or "float64", not {dtype!r}')


@contextlib.contextmanager
def clear_errors(what: str, hint: str) -> Iterator[None]:
    """Turns an error of the user's code into one line that names it and says what it takes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} failed: {type(error).__name__}: {reason(error)}. ({hint})") from error


def model_failed(framework: str, error: Exception, *, only_in_float64: bool = False) -> UserError:
    """Returns the line for a model that can't be run on its inputs, or only in float32."""
    if only_in_float64:
        return UserError(
            f"the {framework} model runs in float32 and failed in float64: {type(error).__name__}: {reason(error)}. "
            "(a check needs both: take dtypes from the parameters, also in call=, in place of jnp.float32)"
        )
    return UserError(
        f"the {framework} model failed on its inputs: {type(error).__name__}: {reason(error)}. "
        "(inputs= takes one array, a tuple of arguments, or a dict of keyword arguments; "
        "call=lambda model, x: model(x, ...) runs the model in another way)"
    )
