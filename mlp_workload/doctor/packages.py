"""Checks the versions of packages, and optional packages."""

import re
from collections.abc import Iterator
from importlib import metadata

from mlp_workload.doctor.answer import Answer
from mlp_workload.doctor.finding import Finding

_PROJECT = "jax-mlp"
_TFDS = "pip install '.[tfds]' in the project's folder"


def installed(package: str) -> str | None:
    """Returns the version of `package` that would be imported; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def ranges() -> Iterator[Finding]:
    """Yields installed packages whose versions the project does not support, optional ones too."""
    try:
        requirements = metadata.requires(_PROJECT) or []
    except metadata.PackageNotFoundError:
        yield Finding("note", "packages", f"{_PROJECT} itself is not installed, so no version was checked",
                      "make setup, or pip install . in the project's folder")  # fmt: skip
        return
    bounds = sorted({m.groups() for text in requirements if (m := re.match(r"([\w.-]+)(>=|<)([\d.]+)", text))})
    wrong = [
        Finding("wrong", "packages", f"{package} {version}, but {package}{sign}{bound} is needed",
                f"pip install '{package}{sign}{bound}'")
        for package, sign, bound in bounds
        if (version := installed(package)) and (release(version) >= release(bound)) != (sign == ">=")
    ]  # fmt: skip
    yield from wrong or [Finding("ok", "packages", f"all installed packages have versions that {_PROJECT} supports")]


def release(version: str) -> tuple[int, ...]:
    """Returns the leading numbers of a version, without zeros at the end."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def tfds() -> Iterator[Finding]:
    """Checks tensorflow-datasets by importing it, and whether TensorFlow is installed."""
    version = installed("tensorflow-datasets")
    if version is None:
        yield Finding("note", "TFDS", "not installed, only --dataset tfds:... needs it", _TFDS)
        return
    failure = Answer.of("mlp_workload.doctor.tfds_probe").failure
    yield Finding("wrong", "TFDS", f"{version}, {failure}", _TFDS) if failure else Finding("ok", "TFDS", version)
    for package in ("tensorflow", "tensorflow-cpu"):
        if version := installed(package):
            yield Finding("ok", "TensorFlow", version)
            return
    yield Finding("note", "TensorFlow", "not installed; sets that TFDS has prepared are read without it", _TFDS)
