"""Python commands without their imports: `python()` in place of `sys.executable`."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT: dict[str, str] = {}
"""Environment of the session, without what single tests change."""
SHARED = "WARM_PYTHON"
"""Variable with the program of the session's first process, which its workers use too."""


@functools.cache
def python() -> str:
    """Returns the path of a program that stands in for the interpreter."""
    if sys.platform != "linux":
        return sys.executable
    program = os.environ.get(SHARED) or start()
    deadline = time.monotonic() + 240
    while not Path(program).with_name("socket.context").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return program


def start() -> str:
    """Starts `warm_server.py`, which ends with this process. Returns the path of the program that asks it."""
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
        env=ENVIRONMENT | {"PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    assert server.stdin is not None
    atexit.register(server.wait)
    atexit.register(server.stdin.close)
    return str(program)
