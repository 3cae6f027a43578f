"""What a step of training computed, tensor by tensor: the exchange format of the parity check.

A trace's tensors stand in causal order, under these names for an MLP: the batch (`batch.images`, `batch.labels`,
`batch.digest`), `inputs`, then `layers.0.pre_activation`, `layers.0.activation` and so on to `logits`, `loss`,
`logits.grad`, the gradients from the last layer back (`layers.2.weight.grad`), the momentum
(`layers.0.weight.momentum`), and the parameters after the step (`layers.0.weight`). Weights and their like are
(fan_out, fan_in); the rest is (batch, features).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from mlp_workload.errors import UserError, refusal, warn
from mlp_workload.files import clear_write_errors, write_atomically
from mlp_workload.weights import read_safetensors

FORMAT = "1"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Trace:
    """Named tensors in causal order, and `facts` in words: which framework, which version, which step.

    The file is safetensors; its metadata hold the order of the tensors, the facts, and the version of the format.
    """

    tensors: Mapping[str, Array]
    facts: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path | str) -> None:
        """Writes the file, whole or not at all. Raises `UserError` where it can't."""
        path = Path(path)
        facts = {str(name): str(fact) for name, fact in self.facts.items()}
        metadata = {"format": FORMAT, "order": json.dumps(list(self.tensors)), "facts": json.dumps(facts)}
        tensors = {name: np.asarray(array, order="C") for name, array in self.tensors.items()}
        with clear_write_errors(path):
            write_atomically(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Path | str) -> "Trace":
        """Reads a file that `save` wrote. Raises `UserError`, naming the file, where it is none."""
        path = Path(path)
        tensors, metadata = read_safetensors(path, "trace")
        if (found := metadata.get("format")) != FORMAT:
            what = f"a trace of format {found}" if found else "not a trace (it names no format)"
            raise UserError(f"{path}: {what}; this version reads format {FORMAT}: record it again")
        try:
            order, facts = json.loads(metadata["order"]), json.loads(metadata["facts"])
            complete = sorted(order) == sorted(tensors) and all(isinstance(fact, str) for fact in facts.values())
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: the trace's metadata are damaged ({refusal(error)})") from error
        if not complete:
            raise UserError(f"{path}: the trace's metadata do not fit its tensors")
        return cls({name: tensors[name] for name in order}, facts)


def warn_of_rounding(output: Array) -> None:
    """Warns if the `output` of a recorded model is in less than float64."""
    if output.dtype != np.float64:
        warn(
            f"recorded in {output.dtype}, whose rounding hides small mistakes, such as a LayerNorm epsilon of 1e-6 "
            "for 1e-5: record the model and its inputs in float64 to see them"
        )


def rename(trace: Trace, names: Mapping[str, str | tuple[str, Sequence[int]] | None]) -> Trace:
    """`trace` with each tensor under its new name, its axes permuted, or left out, as `names` has it by old name.

    A value is the new name, `(new name, order of the axes)` as `numpy.transpose` takes it, or None for a tensor to
    leave out: nothing is left out of a comparison by oversight.

    Raises `UserError`, naming the tensor, where one is not mapped, two get the same name, there is no such tensor, or
    an order does not fit its tensor.
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
