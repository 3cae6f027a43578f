"""Names in JSON files of earlier versions, and what they are called now."""

from typing import Any

_CURRENT = {
    "rungs": "variants",
    "rung": "variant",
    "many": "seeds",
    "floor": "lower_bound",
    "floor-torch": "products-torch",
    "floor-jax": "products-jax",
    "floor-numpy": "products-numpy",
    "torch-article": "torch-tutorial",
    "jax-many": "jax-seeds",
    "python -m reference_torch.article module": "python -m reference_torch.tutorial module",
    "crossings": "sign_flips",
    "first_departure": "first_mismatch",
    "verdict": "result",
}


def current_name(name: str) -> str:
    """Returns the current name of a key or of a benchmark's variant."""
    return _CURRENT.get(name, name)


def with_current_names(content: Any) -> Any:
    """Returns JSON `content` with the keys and strings that earlier versions named otherwise replaced."""
    match content:
        case dict():
            return {current_name(key): with_current_names(value) for key, value in content.items()}
        case list():
            return [with_current_names(value) for value in content]
        case str():
            return current_name(content)
    return content
