"""What may stand in one table: numbers from the same device, by products of the same precision."""

from collections.abc import Mapping
from typing import Any

from mlp_workload.errors import UserError


def require_alike(facts: Mapping[str, Mapping[str, Any]]) -> None:
    """`facts` has "device" and "precision" by what was measured. Raises `UserError`, naming all, where they differ."""
    for setting, joined, flag in (("device", "on", "--device"), ("precision", "by", "--matmul-precision")):
        found = {name: one[setting] for name, one in facts.items()}
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{name} {joined} {value}" for name, value in found.items())
            raise UserError(f"not compared, their {setting} differs: {listed}; name one with {flag}")
