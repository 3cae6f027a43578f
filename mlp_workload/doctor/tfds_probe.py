"""Imports the modules that reading a TFDS set needs: `python -m mlp_workload.doctor.tfds_probe`."""

import importlib
import sys
from collections.abc import Iterator

from mlp_workload.doctor.probe import Facts, tell

_NEEDED = (
    "tensorflow_datasets.core.read_only_builder",  # the package itself hides what it cannot import
    "importlib_resources",  # imported on use, and not declared as a requirement
    "PIL.Image",  # likewise
    *(["array_record.python.array_record_module"] if sys.platform != "win32" else []),
)


def facts() -> Iterator[Facts]:
    for name in _NEEDED:
        yield {"doing": f"import {name}"}
        importlib.import_module(name)


if __name__ == "__main__":
    tell(facts)
