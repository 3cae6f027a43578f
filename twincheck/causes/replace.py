"""Replaces functions and methods of a JAX program for as long as a context lasts, wherever the program holds them."""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

from twincheck.recording import Patch, Patched

Function = Callable[..., Any]
Wrap = Callable[[Function], Function]
"""Returns the replacement of a function, given the function."""


LIBRARIES = ("jax", "flax", "equinox", "haiku", "optax")
"""Packages whose attributes are replaced; their containers and functions are left as they are."""
NOT_THE_USERS = {
    *LIBRARIES,
    *sys.stdlib_module_names,
    "jaxlib",
    "numpy",
    "scipy",
    "torch",
    "twincheck",
    "_pytest",
    "pytest",
}
NOT_THE_USERS -= {"__main__"}
LONGEST = 1000
"""Longer containers hold data, and no functions."""


def functions(wraps: Mapping[str, Wrap], methods: Mapping[str, Wrap] | None = None, *, nested: bool = False) -> Patch:
    """Returns a patch that replaces functions.

    Args:
        wraps: replacements by qualified name, such as `{"jax.nn.gelu": lambda gelu: lambda x: gelu(x, False)}`.
        methods: replacements of methods by the qualified name of the method. Those of `jax.Array` also change tracers.
        nested: replaces also the calls that a replaced function makes.
    """

    @contextmanager
    def patch(modules: Sequence[object]) -> Iterator[Patched]:
        patched, undo = Patched(), list[Callable[[], None]]()
        inside = False

        def replacement(original: Function, wrap: Wrap) -> Function:
            changed = wrap(original)

            @functools.wraps(original, updated=())
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal inside
                if inside and not nested:  # the replaced function calls another one, or itself
                    return original(*args, **kwargs)
                patched.used += 1
                inside = True
                try:
                    return changed(*args, **kwargs)
                finally:
                    inside = False

            return call

        try:
            replacements = {}
            for name, wrap in wraps.items():
                original = resolve(name)
                if original is not None and id(original) not in replacements:
                    replacements[id(original)] = replacement(original, wrap)
            _replace_everywhere(replacements, modules, undo)
            for name, wrap in (methods or {}).items():
                for owner, attribute, original, rewrap in _methods(name):
                    undo.append(functools.partial(setattr, owner, attribute, vars(owner)[attribute]))
                    setattr(owner, attribute, rewrap(replacement(original, wrap)))
            yield patched
        finally:
            for restore in reversed(undo):
                restore()

    return Patch(patch, frozenset((*wraps, *(methods or {}))))


def attributes(classes: Sequence[str], values: Mapping[str, Any], **arguments: Any) -> Patch:
    """Returns a patch under which modules of `classes` are called with other attributes and keyword arguments."""

    def wrap(original: Function) -> Function:
        def call(self: object, *args: Any, **kwargs: Any) -> Any:
            before = {name: getattr(self, name) for name in values if hasattr(self, name)}
            try:
                for name in before:
                    object.__setattr__(self, name, values[name])
                return original(self, *args, **kwargs | arguments)
            finally:
                for name, value in before.items():
                    object.__setattr__(self, name, value)

        return call

    return functions({}, {f"{name}.__call__": wrap for name in classes})


def together(*patches: Patch) -> Patch:
    """Returns a patch that applies several at once; `used` counts all."""

    @contextmanager
    def patch(modules: Sequence[object]) -> Iterator[Patched]:
        total = Patched()

        @contextmanager
        def nested(rest: Sequence[Patch]) -> Iterator[None]:
            if not rest:
                yield
                return
            with rest[0](modules) as one:
                try:
                    with nested(rest[1:]):
                        yield
                finally:
                    total.used += one.used

        with nested(patches):
            yield total

    names = [one.names for one in patches]
    return Patch(patch, None if None in names else frozenset().union(*filter(None, names)))


def user_namespaces(modules: Sequence[object]) -> list[dict[str, Any]]:
    """Returns the namespaces of the program: those of the classes and functions of `modules`, and what these name."""
    found: dict[int, dict[str, Any]] = {}

    def add(name: object) -> None:
        if isinstance(name, str) and _is_users(name) and name in sys.modules:
            found[id(vars(sys.modules[name]))] = vars(sys.modules[name])

    add("__main__")
    classes = {base for module in modules for base in type(module).__mro__}
    held = [value for module in modules for value in getattr(module, "__dict__", {}).values()]
    for cls in classes:
        add(cls.__module__)
    for function in [*held, *(function for cls in classes for function in _own_functions(cls))]:
        if isinstance(function, FunctionType) and _is_users(function.__module__):
            found[id(function.__globals__)] = function.__globals__
    for namespace in list(found.values()):
        for value in list(namespace.values()):
            add(value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None))
    return list(found.values())


def _is_users(name: object) -> bool:
    return isinstance(name, str) and name.partition(".")[0] not in NOT_THE_USERS


def resolve(name: str) -> Any:
    """Returns the object of a qualified name, or None if its package is not imported or does not have it."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        value: Any = sys.modules.get(".".join(parts[:length]))
        if value is not None:
            for part in parts[length:]:
                value = getattr(value, part, None)
            return value
    return None


def _methods(name: str) -> Iterator[tuple[Any, str, Function, Wrap]]:
    """Yields the class, the attribute, the function, and how a replacement is stored, for each class to change."""
    path, _, attribute = name.rpartition(".")
    if path != "jax.Array":
        owner = resolve(path)
        if owner is not None and attribute in vars(owner):
            yield owner, attribute, vars(owner)[attribute], lambda call: call
        return
    import jax

    array = jax.numpy.zeros(())
    concrete, abstract = type(array), type(jax.typeof(array))
    yield concrete, attribute, vars(concrete)[attribute], lambda call: call
    is_operator = attribute.startswith("__")
    attribute = attribute[1:-2] if is_operator else attribute
    forwarded = vars(abstract)[attribute]  # what a tracer's attribute is looked up in
    yield abstract, attribute, forwarded.__func__ if is_operator else forwarded.fun, type(forwarded)


def _replace_everywhere(
    replacements: Mapping[int, Function], modules: Sequence[object], undo: list[Callable[[], None]]
) -> None:
    """Replaces functions, given by id, in libraries, in the program's namespaces and in the attributes of `modules`."""
    if not replacements:
        return
    seen = {id(replacement) for replacement in replacements.values()}

    def new(value: Any) -> Any:
        """Returns what replaces a value; the value itself if nothing does. Changes what the value holds in place."""
        if id(value) in replacements:
            return replacements[id(value)]
        if isinstance(value, functools.partial):
            return (
                type(value)(new(value.func), *value.args, **value.keywords) if id(value.func) in replacements else value
            )
        if isinstance(value, staticmethod):
            return staticmethod(new(value.__func__)) if id(value.__func__) in replacements else value
        if type(value) in (tuple, list, dict) and len(value) > LONGEST:
            return value
        if type(value) is tuple:
            changed = tuple(new(item) for item in value)
            return changed if any(a is not b for a, b in zip(changed, value, strict=True)) else value
        if id(value) in seen:
            return value
        if type(value) is list:
            seen.add(id(value))
            for i, item in enumerate(value):
                put(item, functools.partial(value.__setitem__, i))
        elif type(value) is dict:
            seen.add(id(value))
            for key, item in list(value.items()):
                put(item, functools.partial(value.__setitem__, key))
        elif isinstance(value, FunctionType):
            seen.add(id(value))
            put(value.__defaults__, functools.partial(setattr, value, "__defaults__"))
            keywords = value.__kwdefaults__ or {}
            for key, item in list(keywords.items()):
                put(item, functools.partial(keywords.__setitem__, key))
            for cell in value.__closure__ or ():
                try:
                    content = cell.cell_contents
                except ValueError:  # not filled yet
                    continue
                put(content, functools.partial(setattr, cell, "cell_contents"))
        elif type(value).__module__ == "flax.nnx.helpers":
            instance(value)
        return value

    def put(value: Any, store: Callable[[Any], None]) -> None:
        changed = new(value)
        if changed is not value:
            undo.append(functools.partial(store, value))
            store(changed)

    def instance(module: Any) -> None:
        seen.add(id(module))
        for name, value in list(getattr(module, "__dict__", {}).items()):
            put(value, functools.partial(object.__setattr__, module, name))

    for name, library in list(sys.modules.items()):
        if isinstance(library, ModuleType) and name.partition(".")[0] in LIBRARIES and not name.startswith("jax._src"):
            for attribute, value in list(vars(library).items()):
                if id(value) in replacements:
                    put(value, functools.partial(setattr, library, attribute))
    for namespace in user_namespaces(modules):
        for attribute, value in list(namespace.items()):
            if isinstance(value, type):
                if not _is_users(value.__module__):
                    continue
                for key, member in list(vars(value).items()):
                    put(member, functools.partial(setattr, value, key))
            else:
                put(value, functools.partial(namespace.__setitem__, attribute))
    for module in modules:
        instance(module)
        for cls in type(module).__mro__:
            if _is_users(cls.__module__):
                for key, member in list(vars(cls).items()):
                    put(member, functools.partial(setattr, cls, key))


def _own_functions(cls: type) -> Iterator[FunctionType]:
    """Yields the functions that a class defines, unwrapped."""
    for member in vars(cls).values():
        while hasattr(member, "__wrapped__"):
            member = member.__wrapped__
        if isinstance(member, FunctionType):
            yield member


def calls_of(names: Iterable[str], called: set[str]) -> Patch:
    """Returns a patch that changes nothing, and adds those of the functions and methods to `called` that are called."""
    resolved = {name: id(resolve(name)) for name in names}

    def counting(name: str) -> Wrap:
        def wrap(original: Function) -> Function:
            def call(*args: Any, **kwargs: Any) -> Any:
                called.update(other for other, found in resolved.items() if found == resolved[name])
                return original(*args, **kwargs)

            return call

        return wrap

    wraps = {name: counting(name) for name in names}
    methods = {name: wrap for name, wrap in wraps.items() if isinstance(resolve(name.rpartition(".")[0]), type)}
    return functions({name: wrap for name, wrap in wraps.items() if name not in methods}, methods, nested=True)
