"""A server whose forks run Python commands: JAX, PyTorch and the project are imported once for a whole test session.

`warm_python.py` is what tests start in place of the interpreter. A fork takes over its client's arguments, environment,
folder and open files; then it is the command that the client was asked for, without the seconds of imports. The server
starts no backend and no thread.
"""

import array
import atexit
import contextlib
import gc
import importlib
import io
import json
import multiprocessing
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

from warm_python import context

PRELOADED = (
    "PIL.Image", "flax.nnx", "jax", "jinja2", "numpy.random", "optax", "requests", "rich.live", "rich.table",
    "safetensors.numpy", "tornado.web", "tornado.websocket", "torch", "torch._dynamo", "urllib.request",
    "twincheck.record_jax", "jax_mlp.trainer", "mlp_workload.run.session", "mlp_workload.sinks.console",
    "twincheck.record_torch", "reference_torch.trainer",
)  # fmt: skip


class Server:
    """Listens at the Unix socket `address` until its standard input closes."""

    def __init__(self, address: str) -> None:
        self._clients: dict[int, socket.socket] = {}  # by the process that runs for each
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(64)
        self._ended, wake = socket.socketpair()
        self._ended.setblocking(False)
        wake.setblocking(False)
        self._wake = wake
        signal.set_wakeup_fd(wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for source in (self._listener, self._ended, sys.stdin):
            self._selector.register(source, selectors.EVENT_READ)

    def serve(self) -> tuple[dict[str, Any], list[int]] | None:
        """Returns in each fork, with what its client asked for and sent, and at the end, with None."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is sys.stdin:
                    for process in self._clients:
                        os.kill(process, signal.SIGKILL)
                    return None
                if key.fileobj is self._ended:
                    self._report_ends()
                elif key.fileobj is self._listener:
                    if request := self._start():
                        return request
                elif key.data in self._clients:  # the client was killed
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)

    def _start(self) -> tuple[dict[str, Any], list[int]] | None:
        client, _ = self._listener.accept()
        files = array.array("i")
        header, rights, _, _ = client.recvmsg(10, socket.CMSG_SPACE(253 * files.itemsize))
        for _, _, content in rights:
            files.frombytes(content)
        with client.makefile("rb") as stream:
            request = json.loads(stream.read(int(header)))
        if process := os.fork():
            for file in files:
                os.close(file)
            client.sendall(f"{process}\n".encode())
            self._selector.register(client, selectors.EVENT_READ, process)
            self._clients[process] = client
            return None
        return request, list(files)

    def _report_ends(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ended.recv(2**16)
        while self._clients:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            client = self._clients.pop(process)
            with contextlib.suppress(KeyError):
                self._selector.unregister(client)
            with contextlib.suppress(BrokenPipeError), client:
                client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def become(request: dict[str, Any], files: list[int]) -> None:
    """Makes this process what the client was started as."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    numbers = request["files"]
    above = max([*numbers, *files]) + 1
    for index, file in enumerate(files):  # out of the way of all numbers first
        os.dup2(file, above + index)
    os.closerange(0, above)
    for index, number in enumerate(numbers):
        os.dup2(above + index, number)
    os.closerange(above, above + len(files))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.sched_setaffinity(0, request["cores"])
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old, new = getattr(sys, name), None
        with contextlib.suppress(OSError):  # closed: as in the interpreter, None
            buffering = 0 if old.write_through and name != "stdin" else -1  # as PYTHONUNBUFFERED says
            binary = open(number, "rb" if name == "stdin" else "wb", buffering, closefd=False)  # noqa: SIM115
            lines = name == "stderr" or binary.isatty()
            new = io.TextIOWrapper(binary, old.encoding, old.errors, line_buffering=lines, write_through=not buffering)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def run(kind: str, what: str, folder: str) -> None:
    sys.path[0] = folder if kind == "-m" else ""
    if kind == "-m":
        sys.modules.pop(what, None)
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)


def status_of(kind: str, what: str, folder: str) -> int:
    """Runs the command as the interpreter does, but for taking apart at the end all that was imported."""
    status: object = 0
    try:
        run(kind, what, folder)
    except SystemExit as end:
        status = end.code
    except BaseException as error:
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            try:
                stream.flush()
            except OSError:
                status = status or 120
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return (status or 0) & 255


def main(address: str, executable: str) -> None:
    here = context() | {"options": subprocess._args_from_interpreter_flags()}
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    server = Server(address)
    Path(f"{address}.new").write_text(json.dumps(here))
    os.rename(f"{address}.new", f"{address}.context")  # from now on it is asked
    if asked := server.serve():
        request, files = asked
        become(request, files)
        sys.executable, sys.argv = executable, request["arguments"]
        multiprocessing.set_executable(executable)
        multiprocessing.process.ORIGINAL_DIR = request["folder"]
        os._exit(status_of(*request["run"], request["folder"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
