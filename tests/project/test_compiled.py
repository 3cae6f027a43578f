"""The tests' own compilation cache."""

import os

from compiled import MONTH, compiled_programs
from jax._src.compilation_cache import compress_executable


def test_programs_that_are_damaged_or_old_are_removed(tmp_path):
    program = compress_executable(b"a program" * 1000)
    for name, content in (("good", program), ("cut", program[:-8]), ("empty", b""), ("old", program)):
        (tmp_path / f"{name}-cache").write_bytes(content)
    old = tmp_path / "old-cache"
    os.utime(old, (old.stat().st_mtime - 2 * MONTH,) * 2)
    (tmp_path / "what XLA keeps there on a GPU").mkdir()
    assert compiled_programs(tmp_path) == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == {"good-cache", "what XLA keeps there on a GPU"}
