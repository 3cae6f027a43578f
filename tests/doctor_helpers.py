"""What the doctor's tests plant, and the lines that it answers with."""

import gzip
from importlib import metadata

TORCH_RELEASE = metadata.version("torch").partition("+")[0]
JAX_RELEASE = metadata.version("jax")


def lines(findings):
    return [f"{finding.state} {finding}" for finding in findings]


def plant_package(folder, name, source):
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)


def plant_version(folder, name, version):
    """As pip writes down what it has installed."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def spoil(file):
    """One label is another; the file itself is whole."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[-1] ^= 1
    file.write_bytes(gzip.compress(content))
