"""Python commands without their imports: `python()` in place of `sys.executable`."""

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT: dict[str, str] = {}
"""Environment of the session, without what single tests change."""


@functools.cache
def python() -> str:
    """Path of a program that stands in for the interpreter. Starts `warm_server.py`, which ends with this process."""
    if sys.platform != "linux":
        return sys.executable
    folder = tempfile.mkdtemp(prefix="warm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, program = f"{folder}/socket", Path(folder, "python")
    program.write_text(
        f"#!{sys.executable} -IS\nimport sys\n\nsys.path.append({str(HERE)!r})\nimport warm_python\n\n"
        f"warm_python.main({address!r}, {sys.executable!r}, sys.argv[1:])\n"
    )
    program.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, str(HERE / "warm_server.py"), address, str(program)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env=ENVIRONMENT | {"PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    atexit.register(server.wait)
    atexit.register(server.stdin.close)
    assert server.stdout.readline() == b"ready\n"
    return str(program)
