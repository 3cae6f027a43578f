"""NVIDIA's libraries in this process: their versions, asked of themselves, and the files they come from."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

Library = ctypes.CDLL


def loaded(maps: Path = Path("/proc/self/maps")) -> dict[str, dict[str, str]]:
    """Version and file of each that is loaded, by the library's name; empty where the system does not tell."""
    try:
        lines = maps.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    files = sorted({parts[5] for line in lines if len(parts := line.split(maxsplit=5)) == 6})
    return {
        name: {"version": _version(file, _VERSIONS[name]), "file": file}
        for file in files
        if (name := Path(file).name.partition(".so")[0]) in _VERSIONS
    }


def _version(file: str, ask: Callable[[Library], str]) -> str:
    with contextlib.suppress(OSError, AttributeError):  # a file that was replaced, a library without that function
        return ask(ctypes.CDLL(file))
    return "unknown"


def _number(function: Callable[..., int], *arguments: int) -> int:
    """What a function of CUDA's writes where its last argument points."""
    number = ctypes.c_int()
    function(*arguments, ctypes.byref(number))
    return number.value


def _cudnn(library: Library) -> str:
    library.cudnnGetVersion.restype = ctypes.c_size_t
    return cudnn_version(library.cudnnGetVersion())


def cudnn_version(number: int) -> str:
    """91002 is 9.10.2; before cuDNN 9, 8907 was 8.9.7."""
    major = 10_000 if number >= 90_000 else 1000
    return f"{number // major}.{number % major // 100}.{number % 100}"


def cuda_version(number: int) -> str:
    """12090 is 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _nccl(number: int) -> str:
    return f"{number // 10_000}.{number % 10_000 // 100}.{number % 100}"


_VERSIONS: dict[str, Callable[[Library], str]] = {
    "libcuda": lambda library: cuda_version(_number(library.cuDriverGetVersion)),
    "libcudart": lambda library: cuda_version(_number(library.cudaRuntimeGetVersion)),
    "libcublas": lambda library: ".".join(str(_number(library.cublasGetProperty, part)) for part in range(3)),
    "libcudnn": _cudnn,
    "libnccl": lambda library: _nccl(_number(library.ncclGetVersion)),
}
