"""Turns the answers of the frameworks' probes into findings."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlp_workload.cli.parse import INSTALL
from mlp_workload.data.shipped import PIXELS
from mlp_workload.doctor.answer import Answer
from mlp_workload.doctor.finding import Finding
from mlp_workload.doctor.gpus import DRIVER_FOR, Gpus
from mlp_workload.doctor.packages import installed, release
from mlp_workload.doctor.probe import EXAMPLES, UNITS
from mlp_workload.errors import NO_THREADS
from mlp_workload.interface import TITLES


@dataclass(frozen=True)
class Framework:
    """A framework and the packages to reinstall if it is broken; the first one is imported."""

    name: str
    packages: tuple[str, ...]
    optional: bool = False


JAX = Framework(TITLES["jax"], ("jax", "jaxlib"))
TORCH = Framework(TITLES["torch"], ("torch",), optional=True)


def findings(framework: Framework, answer: Answer, gpus: Gpus) -> Iterator[Finding]:
    name, facts = framework.name, answer.facts
    if "cache" in facts:
        yield _cache(**facts["cache"])
    if framework is JAX:
        yield from _plugins()
    if answer.failure:
        yield _failed(framework, answer)
    if "devices" in facts:
        versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
        devices = ", ".join(
            device["name"] + (f" with {memory / 2**30:.1f} GiB" if (memory := device["memory"]) is not None else "")
            for device in facts["devices"]
        )
        yield Finding("ok", name, f"{versions}; sees {devices}; {facts['threads']} threads")
        yield from _unseen_gpu(framework, answer, gpus)
        yield from _cuda(framework, answer)
    if "product" in facts:
        yield _product(framework, **facts["product"])


def _failed(framework: Framework, answer: Answer) -> Finding:
    package, failure = framework.packages[0], answer.failure
    assert failure is not None
    if answer.missing == package:
        seen = "not installed" + (", only PyTorch's trainer and the comparisons need it" if framework.optional else "")
        return Finding("note" if framework.optional else "wrong", framework.name, seen, INSTALL[package])
    if answer.missing in INSTALL:
        return Finding("wrong", framework.name, f"{answer.missing} is not installed", INSTALL[answer.missing])
    error = answer.facts.get("error", {})
    if variable := error.get("variable"):
        return Finding("wrong", framework.name, error["said"], f"correct {variable}, or unset it")
    if error.get("said") == NO_THREADS:
        return Finding("wrong", framework.name, *NO_THREADS.split(": "))
    at_devices = "devices" not in answer.facts and "versions" in answer.facts
    imported = answer.facts.get("doing", "").removeprefix("import ")
    if framework is JAX and at_devices and os.environ.get("JAX_PLATFORMS"):
        fix = "unset JAX_PLATFORMS"
    elif answer.status == -9:
        fix = "close other programs"
    else:
        fix = _reinstall(*([imported] if imported in INSTALL and imported != package else framework.packages))
    version = installed(package)
    return Finding("wrong", framework.name, f"{version}, {failure}" if version else failure, fix)


def _reinstall(*packages: str) -> str:
    return " ".join(["pip install --force-reinstall", *map(_release, packages)])


def _release(package: str, extra: str = "") -> str:
    """Returns the installed release as pip's argument, without a local version after a +."""
    version = installed(package)
    return f"{package}{extra}" + (f"=={version.partition('+')[0]}" if version else "")


def _plugins() -> Iterator[Finding]:
    """Checks JAX's CUDA plugins: they must have jaxlib's version, and two of them conflict."""
    jaxlib = installed("jaxlib")
    installed_parts = {
        cuda: [
            (name, version) for part in ("plugin", "pjrt") if (version := installed(name := f"jax-cuda{cuda}-{part}"))
        ]
        for cuda in DRIVER_FOR
    }
    for cuda, parts in installed_parts.items():
        others = [f"{name} {version}" for name, version in parts if jaxlib and release(version) != release(jaxlib)]
        if others:
            seen = f"{', '.join(others)}, but jaxlib {jaxlib}"
            yield Finding("wrong", "JAX CUDA", seen, f"pip install '{_release('jax', f'[cuda{cuda}]')}'")
    if all(installed_parts.values()):
        unneeded = " ".join(name for name, _ in installed_parts[min(installed_parts)])
        yield Finding("note", "JAX CUDA", "plugins for two versions of CUDA are installed", f"pip uninstall {unneeded}")


def _cache(folder: str | None, refusal: str | None, named: bool) -> Finding:
    name = "compile cache"
    if folder is None and refusal is None:
        return Finding("ok", name, "off, because JAX_COMPILATION_CACHE_DIR is empty")
    if refusal is None:
        return Finding("ok", name, f"{folder} {'is not looked into' if '://' in str(folder) else 'can be written to'}")
    seen = f"{folder or 'none'} can't be used ({refusal}), so every run compiles again"
    by_name = "unset JAX_COMPILATION_CACHE_DIR, or name one of your own folders there"
    return Finding(
        "wrong", name, seen, by_name if named else "name one of your own folders in JAX_COMPILATION_CACHE_DIR"
    )


def _product(framework: Framework, error: float, allowed: float) -> Finding:
    name = f"{framework.name} product"
    seen = f"{EXAMPLES}x{PIXELS} by {PIXELS}x{UNITS} is within {error:.1e} of NumPy's, allowed {allowed:.1e}"
    if error <= allowed:
        return Finding("ok", name, seen)
    changing = [variable for variable in ("NVIDIA_TF32_OVERRIDE", "XLA_FLAGS") if variable in os.environ]
    fix = f"unset {' '.join(changing)}" if changing else _reinstall(*framework.packages)
    return Finding("wrong", name, seen, fix)


def _unseen_gpu(framework: Framework, answer: Answer, gpus: Gpus) -> Iterator[Finding]:
    """Yields a finding if there is a GPU that the framework does not see."""
    facts = answer.facts
    if not gpus.gpus or facts["devices"][0]["name"] != "cpu":
        return
    name, gpu = f"{framework.name} device", gpus.gpus[0].name
    for variable, hides in (("CUDA_VISIBLE_DEVICES", ("", "-1")), ("JAX_PLATFORMS", ("cpu",))):
        if os.environ.get(variable) in hides and (framework is JAX or variable.startswith("CUDA")):
            yield Finding("note", name, f"{variable} hides the {gpu}", f"unset {variable}")
            return
    built = facts["cuda"]
    if built is None:
        yield Finding("note", name, f"built for the CPU, though there is a {gpu}", _for_gpu(framework, gpus))
        return
    reasons = (answer.last_line, facts["no_gpu"]) if framework is JAX else (facts["no_gpu"], answer.last_line)
    reason = next(filter(None, reasons), "it does not say why")
    needed = DRIVER_FOR.get(int(built["cuda"].partition(".")[0]), 0)
    fix = f"update NVIDIA's driver to {needed}" if gpus.major < needed else _for_gpu(framework, gpus)
    yield Finding("wrong", name, f"built for CUDA {built['cuda']}, but does not see the {gpu}: {reason}", fix)


def _for_gpu(framework: Framework, gpus: Gpus) -> str:
    if framework is TORCH:
        return _reinstall(*framework.packages)
    if extra := gpus.extra():
        return f"pip install '{_release('jax', f'[{extra}]')}'"
    return f"update NVIDIA's driver to {max(DRIVER_FOR.values())}"


def _cuda(framework: Framework, answer: Answer) -> Iterator[Finding]:
    """Yields the CUDA version that the framework was built for, and NVIDIA's loaded libraries."""
    name, built = f"{framework.name} CUDA", answer.facts["cuda"]
    seen = "built for the CPU" if built is None else f"built for CUDA {built['cuda']} and cuDNN {built['cudnn']}"
    yield Finding("ok", name, seen)
    elsewhere = [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    for library, loaded in answer.facts.get("libraries", {}).items():
        version, file = loaded["version"], Path(loaded["file"])
        seen = f"{library} {version}, {file}"
        if library == "libcudnn" and built and not _suits(version, built["cudnn"]):
            fix = _reinstall(*framework.packages)
            yield Finding("wrong", name, f"{seen}, but cuDNN {built['cudnn']} is needed", fix)
        elif library != "libcuda" and any(file.is_relative_to(folder) for folder in elsewhere):
            # The driver's library is in no package. In containers it is found through LD_LIBRARY_PATH.
            yield Finding("note", name, f"{seen}, by LD_LIBRARY_PATH", "unset LD_LIBRARY_PATH")
        else:
            yield Finding("ok", name, seen)


def _suits(version: str, built: str | None) -> bool:
    """Returns whether the loaded cuDNN has the major version that was built for, and is not older."""
    loaded, needed = release(version), release(built or "")
    return not loaded or not needed or (loaded[0] == needed[0] and loaded >= needed[:2])
