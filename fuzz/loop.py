"""Fuzzes one target until libFuzzer ends the process: `python -m fuzz.loop TARGET [FLAG OF LIBFUZZER ...] FOLDER`.

With a file in the folder's place it tries that one content alone.
"""

import resource
import shutil
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gzip", "mlp_workload"]):
    from fuzz.targets import TARGETS

MEMORY = 4 * 2**30
"""Bytes. Who asks for more by the word of a content gets `MemoryError`, which is a finding."""


def main() -> None:
    name, *arguments = sys.argv[1:]
    target, folder = TARGETS[name], Path("read").absolute()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def try_one(content: bytes) -> None:
        folder.mkdir()
        try:
            target.hold(content, folder)
        finally:
            shutil.rmtree(folder)

    atheris.Setup([sys.argv[0], *arguments], try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
