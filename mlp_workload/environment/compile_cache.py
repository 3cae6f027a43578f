"""Keeps the programs that JAX compiles from run to run, so that the next run of the same shapes starts at once."""

import os
import stat
import warnings
from pathlib import Path


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, in `~/.cache/jax-mlp` or under XDG_CACHE_HOME.

    Call it before JAX is imported. It changes nothing if JAX_COMPILATION_CACHE_DIR is set (empty turns the cache off),
    or if the folder can't be written. Cached programs are executed, so a folder that others can write to is not used.
    By default JAX keeps only programs that took a second to compile; ours take less. Damaged programs are silently
    compiled again.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = own_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_ours(folder):
            return
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def own_folder() -> Path:
    """Returns the default folder. Raises `RuntimeError` if there is no home folder."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "jax-mlp"


def is_ours(folder: Path) -> bool:
    """Returns whether this user, and nobody else, can write to `folder`."""
    if not os.access(folder, os.W_OK):
        return False
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
