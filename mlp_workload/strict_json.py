"""JSON that every reader takes."""

import json
import math
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """As `json.dumps`, but numbers that JSON lacks (nan and the infinities) become null."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
