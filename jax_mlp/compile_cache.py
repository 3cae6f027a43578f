"""Compiled programs kept from run to run, so that the next run of the same shapes begins at once."""

import os
import stat
import warnings
from pathlib import Path


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, in `~/.cache/jax-mlp` or under XDG_CACHE_HOME; call it before JAX
    is imported.

    By itself JAX keeps only what took a second or longer to compile, which none of our programs does. Where the user
    has named a place (JAX_COMPILATION_CACHE_DIR; empty for none), or nothing can be written to ours, that stands. What
    lies there is run: a folder that others can write to is not used. A damaged program is compiled anew, silently.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = own_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_ours(folder):
            return
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")


def own_folder() -> Path:
    """The place where none is named. Raises `RuntimeError` where there is no home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "jax-mlp"


def is_ours(folder: Path) -> bool:
    """Whether we, and nobody else, can write there."""
    if not os.access(folder, os.W_OK):
        return False
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
