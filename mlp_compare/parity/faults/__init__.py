"""Faults that the parity check must catch and locate, for its self-test."""

from mlp_compare.parity.faults import backward, data, evaluation, forward, start, update
from mlp_compare.parity.faults.fault import Fault

FAULTS = {fault.name: fault for part in (data, start, forward, backward, update, evaluation) for fault in part.FAULTS}
"""All faults by name."""

__all__ = ["FAULTS", "Fault"]
