"""Checks of environment variables and threads before JAX starts: without them JAX or XLA would abort the process."""

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

_THREADS = 18
"""Threads that XLA starts on one core; on two it starts 31."""


@contextlib.contextmanager
def started_jax() -> Iterator[None]:
    """Imports JAX for training. Raises `BadVariable` if JAX then fails because of an environment variable."""
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
        where = " in ".join(map(str, reversed(error.args))) or "nan"
        raise BadVariable(checks[0], f"JAX found {where}; without the variable the run goes on and says it") from error


def import_jax() -> None:
    """Imports JAX.

    Raises `BadVariable` if JAX or XLA refuses an environment variable, or if one forbids transfers. Raises `UserError`
    if the system allows fewer threads than XLA needs.
    """
    if not backend_has_begun():
        check_threads()
        check_xla_flags()
    if (guard := os.environ.get("JAX_TRANSFER_GUARD", "")).startswith("disallow"):
        raise BadVariable("JAX_TRANSFER_GUARD", f"{guard} refuses transfers that are needed here; unset it")
    try:
        import jax  # noqa: F401
    except ValueError as error:
        match = re.search(r"jax[._]\w+", str(error), re.I)
        name = match[0].upper().replace(".", "_") if match else ""
        if name not in os.environ:
            raise
        raise BadVariable(name, str(error)) from error


def backend_has_begun() -> bool:
    """Returns whether JAX has started a backend in this process. After that it reads no flags and starts no threads."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bool(bridge.backends_are_initialized())


def check_threads() -> None:
    """Raises `UserError` if XLA would abort the process because it can't start its threads."""
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
    """Raises `BadVariable` if a variable keeps JAX from compiling or running programs."""
    import jax

    for name in ("jax_disable_jit", "jax_no_tracing", "jax_no_execution"):
        if jax.config.values.get(name):
            raise BadVariable(name.upper(), "the training programs have to be compiled and run; unset it")


def check_xla_flags() -> None:
    """Raises `BadVariable` if XLA would abort because of XLA_FLAGS, or ignore a part of it.

    A child process parses them. That takes half a second, so it is only started if there are any flags.
    """
    words = _words(os.environ.get("XLA_FLAGS", ""))
    if not words:
        return
    for word in words:
        if not word.startswith("--"):
            nor_a_file = ", and no file either" if word is words[0] else ""
            raise BadVariable("XLA_FLAGS", f"{word!r} is no flag, as --NAME=VALUE with two hyphens is{nor_a_file}")
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        parse = "from jaxlib.xla_client import CompileOptions as c; c().executable_build_options.debug_options"
        command = [sys.executable, "-c", parse]
        probe = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
        if probe.returncode and (reason := _refusal(probe.stderr)):
            raise BadVariable("XLA_FLAGS", reason)


def _words(text: str) -> Sequence[str]:
    """Returns the flags in XLA_FLAGS, or in the file that it names."""
    try:
        words = shlex.split(text)
        if words and not words[0].startswith("-") and Path(text.strip()).is_file():
            return shlex.split(Path(text.strip()).read_text())
    except (OSError, ValueError) as error:
        raise BadVariable("XLA_FLAGS", f"{error}, in {text!r}") from error
    return words


def _refusal(stderr: str) -> str | None:
    """Returns the reason why XLA aborted, from its standard error; None if it gives none."""
    if match := re.search(r"Unknown flags? in XLA_FLAGS: (.*)", stderr):
        return f"XLA has no flag {match[1].strip()}"
    if match := re.search(r"Couldn't interpret value (.*) for flag (.*)\.", stderr):
        return f"--{match[2]} can't be {match[1]!r}"
    match = re.search(r"^F\d{4} .*?\] (.*)", stderr, re.M)
    return match[1] if match else None
