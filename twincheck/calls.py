"""Names in a trace for the inputs, outputs and parameters of modules, the same for both frameworks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def join(path: str, name: str) -> str:
    """Returns `path.name`, or `name` for the root, whose path is empty."""
    return f"{path}.{name}" if path else name


def numbered(name: str, earlier: int) -> str:
    """Returns `name` for the first call and `name.1` for the second, after `earlier` calls."""
    return join(name, str(earlier)) if earlier else name


def arguments(inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Returns the single argument of a call, or all arguments by position and keyword."""
    return inputs[0] if len(inputs) == 1 and not keywords else dict(enumerate(inputs)) | dict(keywords)


def backward_order(parameters: Iterable[str], calls: Sequence[str]) -> list[str]:
    """Returns the parameters, those of the module called last first.

    A module that is never called counts as its parent.
    """
    last = {path: index for index, path in enumerate(calls)}

    def last_call(path: str) -> int:
        return last[path] if path in last or not path else last_call(path.rpartition(".")[0])

    return sorted(parameters, key=lambda name: last_call(name.rpartition(".")[0]), reverse=True)
