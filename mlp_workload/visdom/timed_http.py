"""HTTP requests that take a few seconds at most, however the server behaves."""

import contextlib
import http.client
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONNECT_SECONDS, ANSWER_SECONDS = 3.0, 5.0
"""Seconds for a connection, and then for a request and its whole answer, headers included."""
LARGEST_ANSWER = 2**28
"""Bytes; the environment of a run is below a megabyte."""


class Endless(Exception):
    """An answer began, and was not complete within `ANSWER_SECONDS` or `LARGEST_ANSWER`."""


class NotHttp(Exception):
    """The answer is not HTTP."""


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    cookies: str
    """The value of the `Cookie` header that later requests send."""


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


def connect(host: str, port: int) -> _TimedSocket:
    """Returns a connection to the first address of `host` that takes one. Raises `OSError`."""
    deadline, failure = time.monotonic() + CONNECT_SECONDS, OSError(f"{host} has no address")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # an empty label, or one that is too long
        raise OSError("not the name of a host") from None
    for family, kind, protocol, _, address in addresses:
        connection = _TimedSocket(family, kind, protocol)
        connection.deadline = deadline
        try:
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # headers and body are sent one by one
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure


def post(host: str, port: int, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Sends `body` as JSON to `path`; no proxy is asked, no redirect followed.

    Raises `OSError` if there is no connection, `TimeoutError` if no answer begins, `Endless`, or `NotHttp`.
    """
    request = http.client.HTTPConnection(host, port)
    with contextlib.closing(request):
        request.sock = connection = connect(host, port)
        connection.limit(ANSWER_SECONDS)
        try:
            request.request("POST", path, body, {"Content-Type": "application/json", "Connection": "close", **headers})
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
    if answer.length:  # it promised more
        raise NotHttp
    return bytes(content)
