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


def with_current_names(content: Any, key: str = "") -> Any:
    """Returns JSON `content`, the value of `key`, with keys and kinds of variants under their current names."""
    match content:
        case dict():
            return {current_name(old): with_current_names(value, current_name(old)) for old, value in content.items()}
        case list():
            return [with_current_names(value) for value in content]
        case str() if key in ("kind", "variant"):
            return current_name(content)
    return content
