"""Server of the drawing page, only for browsers of this machine."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.cli.parse import INSTALL
from mlp_workload.doctor.packages import installed
from mlp_workload.errors import UserError, one_line
from mlp_workload.files import to_json
from mlp_workload.interface import TITLES, package_of
from mlp_workload.predict import image_file
from mlp_workload.predict.trained import Trained
from mlp_workload.run.signals import END_SIGNALS

HOST = "127.0.0.1"
ANSWER_SECONDS = 120.0
"""Time limit for a process to start or to answer; then it is killed."""
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_LARGEST_DRAWING = 2**20
"""Most bytes of a drawing."""


class Side(AbstractContextManager["Side"]):
    """A process of `mlp_workload.predict.draw_answers`; a context manager that ends the process.

    `failure` is the reason why there are no answers, in a line, or None.
    """

    def __init__(self, side: str, run: Path) -> None:
        version = (installed(side) or "").partition("+")[0]
        self.name = f"{TITLES[side]} {version}".strip()
        self.failure: str | None = None
        # In its own session Ctrl-C does not reach it; it ends with its input.
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{package_of(side)}.drawing", str(run.absolute())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True,
        )  # fmt: skip

    def ask(self, image: npt.NDArray[np.uint8]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the process has ended, as `answer` reports
            self._process.stdin.write(image.tobytes().hex() + "\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Returns the next answer; empty if there is a `failure`."""
        if self.failure is not None:
            return {}
        assert self._process.stdout is not None
        late = threading.Timer(ANSWER_SECONDS, self._process.kill)
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        answer: dict[str, Any] = json.loads(line) if line.endswith("\n") else {}
        if not answer:
            self.failure = f"its process ended with status {self._process.wait()}"
        elif error := answer.get("error"):
            missing = error["missing"]
            self.failure = f"{missing} is not installed: {INSTALL[missing]}" if missing in INSTALL else error["said"]
        return {} if self.failure else answer

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=2)  # it ends with its input
        self._process.kill()
        self._process.wait()


class Predictor:
    """Predicts drawings with both frameworks, one at a time.

    Raises `UserError` if the run's classes or image format are unknown.
    """

    def __init__(self, trained: Trained, sides: Sequence[Side]) -> None:
        self._trained, self._sides, self._lock = trained, sides, threading.Lock()
        self._classes, _ = trained.class_names, trained.image_format

    def about(self) -> dict[str, Any]:
        sides = [{"name": side.name, "failure": side.failure} for side in self._sides]
        return {"run": str(self._trained.folder), "classes": self._classes, "sides": sides}

    def answer(self, drawing: bytes) -> dict[str, Any]:
        """Returns the image that the networks see, the answers, and the largest difference of the probabilities.

        Raises `UserError` if `drawing` is not a PNG, or is blank.
        """
        with self._lock:
            picture = image_file.decode(drawing, "drawing")
            seen = self._trained.see(picture, "drawing")
            for side in self._sides:
                side.ask(seen)
            answers = [side.answer() for side in self._sides]
        probabilities = [answer["probabilities"] for answer in answers if answer]
        difference = float(np.abs(np.subtract(*probabilities)).max()) if len(probabilities) == 2 else None
        return self.about() | {"seen": seen.tolist(), "answers": answers, "difference": difference}


def serve(trained: Trained, port: int) -> None:
    """Serves the page until Ctrl-C or another signal that ends programs.

    Raises `UserError` if the port can't be used, or neither framework answers.
    """
    import PIL  # noqa: F401, drawings need it, and it may be missing

    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(_Server((HOST, port), _Handler))
        except OSError as error:
            raise UserError(f"--port {port}: cannot listen at {HOST} ({error.strerror or error})") from None
        for number in END_SIGNALS:
            signal.signal(number, signal.default_int_handler)
        sides = [stack.enter_context(Side(side, trained.folder)) for side in TITLES]
        try:
            for side in sides:
                side.answer()
                print(one_line(f"{side.name}: {side.failure or 'ready'}"), flush=True)
            if all(side.failure for side in sides):
                raise UserError("neither framework answers")
            server.predictor = Predictor(trained, sides)
            print(f"http://{HOST}:{server.server_port} has the page; Ctrl-C stops it", flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    predictor: Predictor

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores browsers that have left."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30.0
    """Seconds to wait for the rest of a request."""

    def do_GET(self) -> None:
        if not self._is_ours():
            return
        if self.path == "/about":
            self._respond(200, to_json(self.server.predictor.about()).encode())
        elif self.path in _FILES:
            name, kind = _FILES[self.path]
            self._respond(200, files("mlp_workload.predict").joinpath(name).read_bytes(), kind)
        else:
            self._refuse(404, "there is no such page")

    def do_POST(self) -> None:
        """Answers a PNG at /drawing. Other sites' pages may not send this type without permission."""
        if not self._is_ours():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/drawing" or self.headers.get_content_type() != "image/png":
            self._refuse(404, "only PNG to /drawing")
        elif not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > _LARGEST_DRAWING:
            self._refuse(413, f"a drawing has at most {_LARGEST_DRAWING} bytes")
        else:
            try:
                answer = self.server.predictor.answer(self.rfile.read(int(length)))
            except UserError as error:
                answer = self.server.predictor.about() | {"message": str(error).removeprefix("drawing: ")}
            self._respond(200, to_json(answer).encode())

    def _is_ours(self) -> bool:
        """Returns whether the request uses this server's name and comes from its page; otherwise refuses it."""
        port = self.server.server_port
        ours = {f"{name}:{port}".removesuffix(":80" if port == 80 else "") for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        is_ours = self.headers.get("Host") in ours and origin in {None, *(f"http://{host}" for host in ours)}
        if not is_ours or self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self._refuse(403, "only for this machine's own page")
            return False
        return True

    def _refuse(self, status: int, reason: str) -> None:
        self._respond(status, to_json({"message": reason}).encode())

    def _respond(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        for name, value in (_HEADERS | {"Content-Type": kind, "Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing."""
