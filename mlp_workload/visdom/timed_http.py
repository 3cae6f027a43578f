"""HTTP requests with strict time limits, however the server behaves."""

import contextlib
import http.client
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONNECT_SECONDS, SEND_SECONDS, ANSWER_SECONDS = 3.0, 20.0, 5.0
"""Seconds for a connection, then for sending a request, then for its whole answer, headers included."""
LARGEST_ANSWER = 2**28
"""Most bytes of an answer; the environment of a run is below a megabyte."""


class Endless(Exception):
    """The answer was not complete within `ANSWER_SECONDS` or `LARGEST_ANSWER`."""


class NoConnection(OSError):
    """No address of the host accepts a connection; the message is that of the last one."""


class NotHttp(Exception):
    """The answer is not HTTP."""


@dataclass(frozen=True)
class Answer:
    """Status, body and cookies of an HTTP answer."""

    status: int
    text: str
    cookies: str
    """Value of the `Cookie` header for later requests."""


class _TimedSocket(socket.socket):
    """A socket whose operations raise `TimeoutError` after `deadline`, however many of them there are."""

    deadline: float

    def limit(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def recv_into(self, *arguments: Any) -> int:
        self._set_timeout()
        return super().recv_into(*arguments)

    def sendall(self, *arguments: Any) -> None:
        self._set_timeout()
        super().sendall(*arguments)

    def connect(self, address: Any) -> None:
        self._set_timeout()
        super().connect(address)

    def _set_timeout(self) -> None:
        if (left := self.deadline - time.monotonic()) <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)


def addresses(host: str, port: int | None) -> list[tuple[Any, ...]]:
    """Returns the result of `socket.getaddrinfo`. Raises `OSError` for every name that is not a host's."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # an empty label, or one that is too long
        raise OSError("not the name of a host") from None


def connect(host: str, port: int) -> _TimedSocket:
    """Returns a connection to the first address of `host` that accepts one. Raises `NoConnection`.

    The addresses share `CONNECT_SECONDS` equally, so a dead one, often IPv6's, does not use up the time of the others.
    The look-up of `host` has the system's time limit.
    """
    failure = OSError(f"{host} has no address")
    try:
        candidates = addresses(host, port)
    except OSError as error:
        candidates, failure = [], error
    deadline = time.monotonic() + CONNECT_SECONDS
    for i, (*kind, _, address) in enumerate(candidates):
        with contextlib.ExitStack() as stack:
            try:
                connection = _TimedSocket(*kind)
                stack.callback(connection.close)
                connection.limit((deadline - time.monotonic()) / (len(candidates) - i))
                # By default the system would buffer megabytes of a slow upload.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # headers and body are sent one by one
                stack.pop_all()
                return connection
            except OSError as error:
                failure = error
    raise NoConnection(failure.strerror or str(failure)) from failure


def post(host: str, port: int, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Sends `body` as JSON to `path`, without proxies and redirects.

    Raises `NoConnection`, `OSError` if the connection breaks, `TimeoutError` if the request is not taken or no answer
    starts, `Endless`, or `NotHttp`.
    """
    request = http.client.HTTPConnection(host, port)
    with contextlib.closing(request):
        request.sock = connection = connect(host, port)
        connection.limit(SEND_SECONDS)
        try:
            request.request("POST", path, body, {"Content-Type": "application/json", "Connection": "close", **headers})
            connection.limit(ANSWER_SECONDS)
            with request.getresponse() as answer:
                set_cookies = answer.headers.get_all("Set-Cookie", [])
                cookies = "; ".join(cookie.partition(";")[0] for cookie in set_cookies)
                return Answer(answer.status, _read(answer).decode(errors="replace"), cookies)
        except OSError:
            raise
        except (http.client.HTTPException, ValueError):
            raise NotHttp from None


def _read(answer: http.client.HTTPResponse) -> bytes:
    content = bytearray()
    try:
        while part := answer.read1(2**16):
            content += part
            if len(content) > LARGEST_ANSWER:
                raise Endless
    except TimeoutError:
        raise Endless from None
    if answer.length:  # shorter than its header promised
        raise NotHttp
    return bytes(content)
