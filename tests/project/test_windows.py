"""Names that Windows lacks are not needed to start any command."""

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

PACKAGES = ("jax_mlp", "mlp_compare", "mlp_workload", "reference_torch", "twincheck", "examples")
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios"}
LACKS = {
    "signal": {"SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGXCPU", "SIGQUIT", "alarm", "pthread_sigmask"},
    "os": {
        "killpg", "fork", "setsid", "getuid", "geteuid", "nice", "posix_fallocate", "sched_getaffinity", "O_DIRECTORY",
        "mkfifo", "uname", "statvfs", "getpgid", "chown", "O_NOFOLLOW", "O_NONBLOCK", "getloadavg",
    },
}  # fmt: skip


def unguarded(source: str) -> list[str]:
    """Uses of such names in functions that do not ask whether they are there, and such imports."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def is_guarded(node: ast.AST) -> bool:
        """By hasattr, the platform, or an exception, in the statement around it or before it in its function."""
        while node in parents:
            node = parents[node]
            if isinstance(node, ast.FunctionDef | ast.Module | ast.IfExp | ast.If | ast.Try):
                text = ast.unparse(node)
                if "hasattr(" in text or "sys.platform" in text or "except ModuleNotFoundError" in text:
                    return not isinstance(node, ast.Module)
        return False

    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in LACKS.get(module, ()):
                used = f"{module}.{name}"
            case ast.Import(names=names) if lacking := {alias.name for alias in names} & MODULES:
                used = f"import {', '.join(lacking)}"
            case _:
                continue
        if not is_guarded(node):
            found.append(f"line {node.lineno}: {used}")
    return found


def test_no_name_that_windows_lacks_is_used_unasked():
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert {str(file): found for file in files if (found := unguarded(file.read_text()))} == {}
    assert len(files) > 100


@pytest.mark.parametrize(
    "source",
    [
        "import resource",
        "import os\ndef f(p):\n    os.killpg(p, 9)",
        "import signal\nfor n in (signal.SIGTERM, signal.SIGHUP):\n    pass",
        "import signal\ndef f(n):\n    return n == -signal.SIGKILL",
        "import os, sys\nif sys.platform == 'win32':\n    pass\ndef f():\n    return os.getuid()",
    ],
)
def test_such_a_use_is_found(source):
    assert unguarded(source)


WITHOUT = """
import os, signal, sys
for module, names in {
    signal: ["SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGXCPU"],
    os: ["getuid", "killpg", "nice", "posix_fallocate"],
}.items():
    for name in names:
        delattr(module, name)
sys.modules |= {"fcntl": None, "resource": None}
"""
"""Before anything else is imported: what the packages would use, and the libraries for this system don't need."""


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("from mlp_compare.bench import processes\nsignal.SIGKILL = 9  # which this system's subprocess needs\n"
         "print(processes.run('x', 'platform').strip() != '')", "True"),
        ("from mlp_compare.bench import timing_worker\n"
         "timing_worker.Path = lambda _: __import__('pathlib').Path('/none')\n"
         "print(timing_worker._peak_megabytes())", "nan"),
        ("from mlp_workload.run.signals import END_SIGNALS\nfrom mlp_workload.predict import draw_server\n"
         "print(sorted(n.name for n in END_SIGNALS))", "['SIGINT', 'SIGTERM']"),
        ("from twincheck.pipe import WorkerProcess\nprint('a side')", "a side"),
    ],
)  # fmt: skip
def test_it_works_without_those_names(code, printed):
    process = subprocess.run([sys.executable, "-c", WITHOUT + code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == printed, process.stderr
