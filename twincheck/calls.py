"""How a trace names what the modules of any model take, give and own, the same for both frameworks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def join(path: str, name: str) -> str:
    """`path.name`; the root's path is empty."""
    return f"{path}.{name}" if path else name


def numbered(name: str, earlier: int) -> str:
    """`name`, and `name.1` the second time."""
    return join(name, str(earlier)) if earlier else name


def arguments(inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """What a call takes: its one argument, or all by position and keyword."""
    return inputs[0] if len(inputs) == 1 and not keywords else dict(enumerate(inputs)) | dict(keywords)


def backward_order(parameters: Iterable[str], calls: Sequence[str]) -> list[str]:
    """Parameters of the module called last come first; one of a module never called counts with what contains it."""
    last = {path: index for index, path in enumerate(calls)}

    def called(path: str) -> int:
        return last[path] if path in last or not path else called(path.rpartition(".")[0])

    return sorted(parameters, key=lambda name: called(name.rpartition(".")[0]), reverse=True)
