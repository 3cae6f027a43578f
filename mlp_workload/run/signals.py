"""Signals that end a run after its next checkpoint."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
END_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
"""Ctrl-C, a request to end, a closed terminal, and what batch systems send before a job's time is over."""


class Stopped(KeyboardInterrupt):
    """A run ended early because of a signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message, signal_number)  # as it is pickled
        self.signal = signal_number

    def __str__(self) -> str:
        return str(self.args[0])


class StopSignals:
    """Notes signals while it is entered, in the main thread. The same signal again ends the process at once.

    A second SIGXCPU is ignored, also afterwards: the kernel sends one for each further second of CPU time.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in END_SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        name = signal.Signals(number).name
        repeats = name == "SIGXCPU"
        signal.signal(number, signal.SIG_IGN if repeats else signal.SIG_DFL)
        said = f"{name}: stops when the running program ends{'' if repeats else '; again ends at once'}\n"
        # Not by print, in the middle of whose own work this may happen; and whoever read it may be gone, as with Ctrl-C
        # before `| tee`, or with a terminal that was closed.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            show_cursor = b"\x1b[?25h" if sys.stderr.isatty() else b""  # a live table hides it
            os.write(sys.stderr.fileno(), show_cursor + said.encode())
