"""Checkpoints, also such whose digest is right whatever they say."""

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from fuzz.safetensors import WORDS, framed, unframed
from fuzz.target import Target
from mlp_workload.config import Config
from mlp_workload.run.checkpoint import FORMAT, _digest, load

_TENSORS = {"losses": np.ones(3, np.float32), "layers.0.bias": np.ones(2, np.float32)}


def read(content: bytes, folder: Path) -> None:
    """A content whose first byte is 2 is what the checkpoint says of itself; any other as `framed` takes it."""
    path = folder / "step-00000003.safetensors"
    path.write_bytes(_whole(content[1:].decode(errors="replace")) if content[:1] == b"\2" else framed(content))
    found = load(path)
    assert isinstance(found.config, dict)
    assert isinstance(found.dataset_digest, str)
    assert isinstance(found.framework, str)
    assert type(found.step) is type(found.epoch) is type(found.offset) is int
    assert found.step >= found.offset >= 0
    assert found.epoch >= 1
    assert math.isfinite(found.seconds)
    assert found.losses.shape == (found.offset,)
    assert found.losses.dtype.kind == "f"


def _whole(about: str) -> bytes:
    return save(_TENSORS, {"checkpoint": about, "digest": _digest(about, _TENSORS)})


def _seeds() -> tuple[bytes, ...]:
    about = json.dumps(
        {
            "config": json.loads(Config().to_json()),
            "dataset_digest": "d",
            "framework": "jax",
            "step": 3,
            "epoch": 1,
            "offset": 3,
            "seconds": 0.5,
            "format": FORMAT,
        }
    )
    whole = _whole(about)
    return b"\2" + about.encode(), unframed(whole), b"\0" + whole


TARGET = Target(
    read,
    _seeds(),
    (*WORDS, *_TENSORS, "checkpoint", "digest", "config", "dataset_digest", "framework", "step", "epoch", "offset",
     "seconds", "null", "true", "-1", "1e999", "NaN", "3.0"),
)  # fmt: skip
