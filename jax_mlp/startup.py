"""Checks before JAX starts, in place of which it or XLA would end the process: environment variables and threads."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlp_workload.errors import NO_THREADS, BadVariable, UserError

_PARSE_FLAGS = "from jaxlib.xla_client import CompileOptions as c; c().executable_build_options.debug_options"
"""Program that has XLA read XLA_FLAGS; XLA ends the process if they are wrong."""
_THREADS = 18
"""Threads that XLA starts on one core; on two it starts 31."""
_PROBE_SECONDS = 60.0


@contextlib.contextmanager
def started_jax() -> Iterator[None]:
    """Imports JAX, to train; what it then raises because of an environment variable names that variable.

    Raises `BadVariable`.
    """
    import_jax()
    check_jit()
    try:
        yield
    except Exception as error:
        if "FloatingPointError" not in type(error).__name__:
            raise
        import jax

        values = jax.config.values
        checks = [f"JAX_DEBUG_{what}" for what in ("NANS", "INFS") if values.get(f"jax_debug_{what.lower()}")]
        if not checks:
            raise
        said = " in ".join(map(str, reversed(error.args))) or "nan"
        raise BadVariable(checks[0], f"JAX found {said}; without the variable the run goes on and says it") from error


def import_jax() -> None:
    """Raises `BadVariable` if the environment has a value that JAX or XLA refuses, or that forbids what is done here,
    and `UserError` if there can't be as many threads as XLA needs."""
    if not backend_has_begun():
        check_threads()
        check_xla_flags()
    if (guard := os.environ.get("JAX_TRANSFER_GUARD", "")).startswith("disallow"):
        raise BadVariable("JAX_TRANSFER_GUARD", f"{guard} refuses transfers that are needed here; unset it")
    try:
        import jax  # noqa: F401
    except ValueError as error:
        if (variable := _named_in(str(error))) is None:
            raise
        raise BadVariable(variable, str(error)) from error


def backend_has_begun() -> bool:
    """Whether JAX has started a backend in this process; from then on it reads no more flags and starts no threads."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bool(bridge.backends_are_initialized())


def check_threads() -> None:
    """Raises `UserError` if XLA would end the process because it can't start its threads."""
    end, threads = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(_THREADS):
            thread = threading.Thread(target=end.wait)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        raise UserError(NO_THREADS) from error
    finally:
        end.set()
        for thread in threads:
            thread.join()


def check_jit() -> None:
    """Raises `BadVariable` if JAX would not compile or not run a program."""
    import jax

    for name in ("jax_disable_jit", "jax_no_tracing", "jax_no_execution"):
        if jax.config.values.get(name):
            raise BadVariable(name.upper(), "the training programs have to be compiled and run; unset it")


def _named_in(message: str) -> str | None:
    """The environment variable that JAX's `message` names, if it is set."""
    found = re.search(r"jax[._]\w+", message, re.I)
    name = found[0].upper().replace(".", "_") if found else ""
    return name if name in os.environ else None


def check_xla_flags() -> None:
    """Raises `BadVariable` if XLA would end the process because of XLA_FLAGS, or ignore a part of it.

    A process of its own reads them, but only if there are any: it takes half a second.
    """
    words = _words(os.environ.get("XLA_FLAGS", ""))
    if not words:
        return
    for word in words:
        if not word.startswith("--"):
            nor_a_file = ", and no file either" if word is words[0] else ""
            raise BadVariable("XLA_FLAGS", f"{word!r} is no flag, as --NAME=VALUE with two hyphens is{nor_a_file}")
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        command = [sys.executable, "-c", _PARSE_FLAGS]
        probe = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PROBE_SECONDS)
        if probe.returncode and (reason := _refusal(probe.stderr)):
            raise BadVariable("XLA_FLAGS", reason)


def _words(text: str) -> Sequence[str]:
    """The flags in XLA_FLAGS or, if it names a file, in that file."""
    try:
        words = shlex.split(text)
        if words and not words[0].startswith("-") and Path(text.strip()).is_file():
            return shlex.split(Path(text.strip()).read_text())
    except (OSError, ValueError) as error:
        raise BadVariable("XLA_FLAGS", f"{error}, in {text!r}") from error
    return words


def _refusal(said: str) -> str | None:
    """The reason for which XLA ended the process, from its standard error; None if something else ended it."""
    if found := re.search(r"Unknown flags? in XLA_FLAGS: (.*)", said):
        return f"XLA has no flag {found[1].strip()}"
    if found := re.search(r"Couldn't interpret value (.*) for flag (.*)\.", said):
        return f"--{found[2]} can't be {found[1]!r}"
    found = re.search(r"^F\d{4} .*?\] (.*)", said, re.M)
    return found[1] if found else None
