"""Finds NVIDIA's libraries in this process, with their versions and files."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

Library = ctypes.CDLL


def loaded(maps: Path = Path("/proc/self/maps")) -> dict[str, dict[str, str]]:
    """Returns version and file of each loaded library by its name; empty if the system does not tell."""
    try:
        lines = maps.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    files = sorted({parts[5] for line in lines if len(parts := line.split(maxsplit=5)) == 6})
    found = {}
    for file in files:
        if (name := Path(file).name.partition(".so")[0]) in _VERSIONS:
            found[name] = {"version": "unknown", "file": file}
            with contextlib.suppress(OSError, AttributeError):  # the file was replaced, or lacks the function
                found[name]["version"] = _VERSIONS[name](ctypes.CDLL(file))
    return found


def _number(function: Callable[..., int], *arguments: int) -> int:
    """Returns the number that a CUDA function writes to its last argument."""
    number = ctypes.c_int()
    function(*arguments, ctypes.byref(number))
    return number.value


def _cudnn(library: Library) -> str:
    library.cudnnGetVersion.restype = ctypes.c_size_t
    return cudnn_version(library.cudnnGetVersion())


def cudnn_version(number: int, major: int = 0) -> str:
    """Returns 91002 as 9.10.2, and 8907 of before cuDNN 9 as 8.9.7."""
    major = major or (10_000 if number >= 90_000 else 1000)
    return f"{number // major}.{number % major // 100}.{number % 100}"


def cuda_version(number: int) -> str:
    """Returns 12090 as 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"


_VERSIONS: dict[str, Callable[[Library], str]] = {
    "libcuda": lambda library: cuda_version(_number(library.cuDriverGetVersion)),
    "libcudart": lambda library: cuda_version(_number(library.cudaRuntimeGetVersion)),
    "libcublas": lambda library: ".".join(str(_number(library.cublasGetProperty, part)) for part in range(3)),
    "libcudnn": _cudnn,
    "libnccl": lambda library: cudnn_version(_number(library.ncclGetVersion), 10_000),
}
