"""What `make package` left in dist/: what is in it, and that it trains where nothing else is."""

import email
import email.policy
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile

import pytest
from helpers import ROOT
from packaging.metadata import Metadata

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}"
PACKAGES = ("jax_mlp", "mlp_compare", "mlp_workload", "reference_torch", "twincheck")


@pytest.fixture(scope="module")
def wheel():
    (file,) = (ROOT / "dist").glob("*.whl")
    assert file.name == f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(file) as archive:
        yield archive


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Runs `python ARGUMENT...` in an environment that has the wheel without extras, and in a folder with nothing."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "environment", symlinks=True)
    interpreter = folder / "environment/bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", interpreter, "install", "--quiet"]
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", wheel.filename], check=True)
    (folder / "work").mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*arguments):
        return subprocess.run(
            [interpreter, *arguments], capture_output=True, text=True, cwd=folder / "work", env=environment, timeout=240
        )

    run.interpreter = interpreter
    return run


def packages():
    """The files of the packages."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file()]
    return {file.relative_to(ROOT).as_posix() for file in files if file.parent.name != "__pycache__"}


def test_the_wheel_holds_the_packages_as_they_are_and_the_licences(wheel):
    files = packages()
    assert {f"{package}/py.typed" for package in PACKAGES} <= files
    about = {f"{NAME}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    licences = {f"{NAME}.dist-info/licenses/{file}" for file in PROJECT["license-files"]}
    assert set(wheel.namelist()) == files | about | licences
    for name in files:
        assert wheel.read(name) == (ROOT / name).read_bytes(), name


def test_the_source_holds_what_the_wheel_is_made_of():
    """From it `build` made the wheel."""
    (file,) = (ROOT / "dist").glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    beside = {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "constraints.txt", "pyproject.toml"}
    assert names == packages() | beside


def test_the_metadata_are_valid(wheel):
    text = wheel.read(f"{NAME}.dist-info/METADATA")
    metadata = Metadata.from_email(text, validate=True)
    assert str(metadata.version) == PROJECT["version"]
    assert metadata.license_files == PROJECT["license-files"]
    readme = email.message_from_bytes(text, policy=email.policy.default).get_payload()
    assert readme.startswith("# One MLP, written twice")
    assert metadata.description_content_type == "text/markdown"


def test_without_extras_it_trains_with_jax_alone(python):
    assert python("-c", "import torch").stderr.endswith("No module named 'torch'\n")
    process = python("-W", "error", "-m", "jax_mlp.train", "--epochs", "1", "--run-dir", "run")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "test accuracy" in process.stdout
    assert [line for line in process.stderr.splitlines() if "no Visdom" not in line and "lost class" not in line] == []
    where = python("-c", "import jax_mlp; print(jax_mlp.__file__)").stdout
    assert where.startswith(str(python.interpreter.parents[1]))


def test_help_and_the_doctor_answer(python):
    process = python("-m", "jax_mlp.train", "--help")
    assert process.returncode == 0
    assert "--learning-rate" in process.stdout
    process = python("-m", "mlp_workload.doctor")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "MNIST" in process.stdout


@pytest.mark.parametrize("command", ["reference_torch.train", "mlp_compare.parity"])
def test_what_needs_torch_says_how_to_get_it_in_one_line(command, python):
    process = python("-m", command)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith(f"python -m {command}: error: torch is not installed: ")
    assert process.stderr.count("\n") == 1


def test_its_users_see_its_types(python, tmp_path):
    (tmp_path / "theirs.py").write_text(
        "from jax_mlp.train import train\nfrom twincheck.comparison import compare\n"
        "from mlp_workload.config import PRESETS\nfrom reference_torch.distributed import ProcessGroup\n"
        "reveal_type(train(PRESETS['relu']))\nreveal_type(compare)\nreveal_type(ProcessGroup.from_environment())\n"
    )
    # Reading the types of these takes a minute.
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-flax.*,jax.*,optax.*,scipy.*]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python.interpreter, "theirs.py"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stdout
    assert 'Revealed type is "dict[str, Any]"' in process.stdout.replace("builtins.", "")
    assert "twincheck.comparison.Comparison" in process.stdout
    assert "reference_torch.distributed.ProcessGroup" in process.stdout
