"""The compilation cache of the tests."""

import time
import zlib
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "build/compiled-by-tests"
MONTH = 30 * 24 * 3600


def compiled_programs() -> Path:
    """Makes the folder, and removes entries that are old or that a killed process left half-written."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for entry in FOLDER.iterdir():
        try:
            zlib.decompress(entry.read_bytes())
            is_usable = entry.stat().st_mtime > time.time() - MONTH
        except (OSError, zlib.error):
            is_usable = False
        if not is_usable:
            entry.unlink(missing_ok=True)
    return FOLDER
