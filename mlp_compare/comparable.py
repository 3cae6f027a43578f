"""Checks that measurements come from the same device, with products of the same precision."""

from collections.abc import Mapping
from typing import Any

from mlp_workload.errors import UserError


def require_comparable(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises `UserError` if "device" or "precision" differ between `facts`, which are by the name of what was run."""
    for setting, preposition, flag in (("device", "on", "--device"), ("precision", "by", "--matmul-precision")):
        values = {name: fact[setting] for name, fact in facts.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {preposition} {value}" for name, value in values.items())
            raise UserError(f"not compared, their {setting} differs: {listed}; name one with {flag}")
