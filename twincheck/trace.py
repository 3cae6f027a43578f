"""Traces: named tensors of one computation in causal order, and the file that stores them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from mlp_workload.errors import UserError, refusal, warn
from mlp_workload.files import clear_write_errors, read_safetensors, write_atomically

FORMAT = "1"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Trace:
    """Named tensors in causal order, and `facts` in words, such as the framework, its version and the step.

    The file is safetensors; its metadata holds the order of the tensors, the facts, and the version of the format.
    """

    tensors: Mapping[str, Array]
    facts: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path | str) -> None:
        """Writes the file atomically. Raises `UserError` if it cannot be written."""
        path = Path(path)
        facts = {str(name): str(fact) for name, fact in self.facts.items()}
        metadata = {"format": FORMAT, "order": json.dumps(list(self.tensors)), "facts": json.dumps(facts)}
        tensors = {name: np.asarray(array, order="C") for name, array in self.tensors.items()}
        with clear_write_errors(path):
            write_atomically(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Path | str) -> "Trace":
        """Reads a file that `save` wrote. Raises `UserError`, naming the file, if it is not a whole trace."""
        path = Path(path)
        tensors, metadata = read_safetensors(path, "trace")
        if (version := metadata.get("format")) != FORMAT:
            problem = f"a trace of format {version}" if version else "not a trace (it names no format)"
            raise UserError(f"{path}: {problem}; this version reads format {FORMAT}: record it again")
        try:
            order, facts = json.loads(metadata["order"]), json.loads(metadata["facts"])
            complete = sorted(order) == sorted(tensors) and all(isinstance(fact, str) for fact in facts.values())
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: the trace's metadata are damaged ({refusal(error)})") from error
        if not complete:
            raise UserError(f"{path}: the trace's metadata do not fit its tensors")
        return cls({name: tensors[name] for name in order}, facts)


def warn_of_rounding(output: Array) -> None:
    """Warns if the recorded `output` of a model is not float64."""
    if output.dtype != np.float64:
        warn(
            f"recorded in {output.dtype}, whose rounding hides small mistakes, such as a LayerNorm epsilon of 1e-6 "
            "for 1e-5: record the model and its inputs in float64 to see them"
        )


def rename(trace: Trace, names: Mapping[str, str | tuple[str, Sequence[int]] | None]) -> Trace:
    """Returns `trace` with its tensors renamed, permuted or left out according to `names`, a mapping by old name.

    A value is the new name, `(new name, order of the axes)` as for `numpy.transpose`, or None to leave the tensor out.
    Every tensor must be mapped, so that none is left out by accident.

    Raises `UserError`, naming the tensor, if one is not mapped, is missing, has a name twice, or an order that does not
    fit.
    """
    for old in trace.tensors:
        if old not in names:
            raise UserError(f"the mapping has no name for {old}")
    for old in names:
        if old not in trace.tensors:
            raise UserError(f"the mapping names {old}, and the trace has {', '.join(trace.tensors)}")
    renamed: dict[str, Array] = {}
    for old, array in trace.tensors.items():
        if (new := names[old]) is None:
            continue
        name, order = (new, range(array.ndim)) if isinstance(new, str) else new
        if name in renamed:
            raise UserError(f"the mapping has {name} twice, the second time for {old}")
        if sorted(order) != list(range(array.ndim)):
            raise UserError(f"the mapping orders the axes of {old} as {tuple(order)}, and its shape is {array.shape}")
        renamed[name] = array.transpose(order)
    return Trace(renamed, trace.facts)
