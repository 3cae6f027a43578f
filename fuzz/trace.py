"""Traces of the parity check."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from fuzz.safetensors import WORDS, framed, unframed
from fuzz.target import Target
from twincheck.trace import FORMAT, Trace

_TENSORS = {"loss": np.array(2.5), "inputs": np.ones((2, 3), np.float32)}


def read(content: bytes, folder: Path) -> None:
    """A content whose first byte is 2 is the metadata alone, by lines; any other as `framed` takes it."""
    path = folder / "trace.safetensors"
    if content[:1] == b"\2":
        values = content[1:].decode(errors="replace").split("\n")
        metadata = dict(zip(("format", "order", "facts"), values, strict=False))
        path.write_bytes(save(_TENSORS, metadata))
    else:
        path.write_bytes(framed(content))
    trace = Trace.load(path)
    assert all(isinstance(text, str) for item in trace.facts.items() for text in item)
    assert all(isinstance(array, np.ndarray) for array in trace.tensors.values())


def _seeds() -> tuple[bytes, ...]:
    order, facts = json.dumps(list(_TENSORS)), json.dumps({"framework": "jax", "step": "7"})
    whole = save(_TENSORS, {"format": FORMAT, "order": order, "facts": facts})
    return f"\2{FORMAT}\n{order}\n{facts}".encode(), unframed(whole), b"\0" + whole


TARGET = Target(read, _seeds(), (*WORDS, *_TENSORS, "format", "order", "facts"))
