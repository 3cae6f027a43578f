"""The compilation cache of the tests."""

import time
from pathlib import Path

from jax._src.compilation_cache import decompress_executable

FOLDER = Path(__file__).parent.parent / "build/compiled-by-tests"
MONTH = 30 * 24 * 3600


def compiled_programs(folder: Path = FOLDER) -> Path:
    """Makes the folder, and removes programs that are old or that a killed process left half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    for program in folder.glob("*-cache"):
        if not is_usable(program):
            program.unlink(missing_ok=True)
    return folder


def is_usable(program: Path) -> bool:
    try:
        decompress_executable(program.read_bytes())
        return program.stat().st_mtime > time.time() - MONTH
    except Exception:  # each compression has its own
        return False
