"""Stands in for the interpreter: `python -m MODULE ...` and `python -c CODE ...` become forks of `warm_server.py`.

The real interpreter runs what a fork cannot: a command with other options of Python, as another user, with limits,
cgroups, namespaces or a session of its own, with other values of variables that libraries read at import, or beside
other copies of the packages.
"""

import array
import json
import os
import resource
import signal
import socket

PACKAGES = (
    "examples",
    "experiments",
    "jax_mlp",
    "mlp_compare",
    "mlp_workload",
    "reference_torch",
    "twincheck",
    "sitecustomize.py",
)
READ_AT_IMPORT = (
    "COVERAGE", "CUDA", "FLAX", "JAX", "KERAS", "KMP", "LANG", "LC_", "LD_", "MALLOC", "MKL", "MPL", "NPROC", "NUMEXPR",
    "NVIDIA", "OMP", "OPENBLAS", "PJRT", "PYTHON", "PYTORCH", "TF_", "TORCH", "XLA",
)  # fmt: skip
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
KEPT = ("Uid", "Gid", "Groups", "CapBnd", "CapEff", "NoNewPrivs", "Seccomp")


def context() -> dict[str, object]:
    """What a fork of another process can't take over from this one."""
    with open("/proc/self/status") as file:
        status = [line for line in file if line.partition(":")[0] in KEPT]
    with open("/proc/self/cgroup") as file:
        cgroups = file.readlines()
    return {
        "status": status,
        "cgroups": cgroups,
        "session": os.getsid(0),
        "nice": os.nice(0),
        "namespaces": [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "net", "pid", "user")],
        "limits": [list(resource.getrlimit(kind)) for kind in range(16)],
        "environment": {name: value for name, value in os.environ.items() if name.startswith(READ_AT_IMPORT)},
    }


def has_packages_of_its_own(root: str) -> bool:
    """Whether there are copies of the packages in the current folder; links to those at `root` are none."""
    places = [(os.path.realpath(name), os.path.realpath(os.path.join(root, name))) for name in PACKAGES]
    return any(here != there and os.path.exists(here) for here, there in places)


def open_files() -> list[int]:
    """Numbers of the open files, the listed folder's own left out."""
    files = [int(name) for name in os.listdir("/proc/self/fd")]
    return [file for file in files if os.path.exists(f"/proc/self/fd/{file}")]


def main(address: str, python: str, arguments: list[str]) -> None:
    """Ends as the command ends, which the real interpreter `python` runs if no fork at `address` can."""
    try:
        with open(f"{address}.context") as file:
            server = json.load(file)
    except OSError:
        server = {}
    options = server.pop("options", [])
    command = arguments[len(options) :] if arguments[: len(options)] == options else arguments
    here = context()
    paths = here["environment"].pop("PYTHONPATH", os.getcwd())  # type: ignore[attr-defined]
    root = server.get("environment", {}).pop("PYTHONPATH", "")
    can_fork = command[1:] and command[0] in ("-m", "-c") and here == server and paths == root
    if not can_fork or has_packages_of_its_own(root):
        os.execv(python, [python, *arguments])
    files = open_files()
    ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = {
            "run": command[:2],
            "arguments": [command[0], *command[2:]],
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "cores": sorted(os.sched_getaffinity(0)),
            "files": files,
            "ignored": ignored,
        }
        content = json.dumps(request).encode()
        header = f"{len(content):10}".encode()
        connection.sendmsg([header], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])
        connection.sendall(content)
        with connection.makefile() as answers:
            process = int(answers.readline())
            for number in set(SIGNALS) - set(ignored):
                signal.signal(number, lambda number, _: os.kill(process, number))
            status = int(answers.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)
