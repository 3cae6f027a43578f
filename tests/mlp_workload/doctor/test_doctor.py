"""What the doctor finds in a healthy installation, in one that is broken in every way, and in each check alone."""

import gzip
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, assert_one_line
from visdom_process import VisdomProcess, free_port

from jax_mlp import doctor_probe as jax_probe
from mlp_workload.data import shipped
from mlp_workload.doctor import folders, frameworks, machine, mnist_files, packages, visdom_server
from mlp_workload.doctor.answer import Answer
from mlp_workload.doctor.frameworks import JAX, TORCH
from mlp_workload.doctor.gpus import Gpu, Gpus
from mlp_workload.doctor.probe import product

TORCH_RELEASE = metadata.version("torch").partition("+")[0]
JAX_RELEASE = metadata.version("jax")


def doctor(folder, *arguments, path=(ROOT,), **variables):
    """`python -m mlp_workload.doctor` in `folder`, with packages from `path` first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | variables
    command = [sys.executable, "-m", "mlp_workload.doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=240)


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


@pytest.fixture(scope="module")
def closed_port():
    return free_port()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, closed_port):
    folder = tmp_path_factory.mktemp("healthy")
    process = doctor(folder, "--json", "doctor.json", VISDOM_PORT=str(closed_port))
    return process, json.loads((folder / "doctor.json").read_text()), folder


def test_a_healthy_installation(healthy):
    process, content, folder = healthy
    assert (process.returncode, process.stderr) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["doctor.json"], "nothing else is left behind"
    *printed, last = process.stdout.splitlines()
    states = [finding["state"] for finding in content["findings"]]
    assert set(states) <= {"ok", "note"}
    assert last == f"nothing wrong, {states.count('note')} to note"
    fixes = [f"; fix: {finding['fix']}" if finding["fix"] else "" for finding in content["findings"]]
    assert printed == [
        f"{finding['state']:<5}  {finding['name']}: {finding['seen']}{fix}"
        for finding, fix in zip(content["findings"], fixes, strict=True)
    ]


def test_it_tells_of_each_framework(healthy):
    _, content, _ = healthy
    seen = [f"{finding['name']}: {finding['seen']}" for finding in content["findings"]]
    for name, package in (("JAX", "jax"), ("PyTorch", "torch")):
        facts = content["frameworks"][package]
        assert facts["file"].startswith(str(Path(find_spec(package).origin).parent))
        assert 0 < facts["product"]["error"] < facts["product"]["allowed"]
        assert any(line.startswith(f"{name}: {package} {metadata.version(package)}") for line in seen)
        assert any(line.startswith(f"{name} product: 200x784 by 784x200 is within ") for line in seen)
        assert f"{name} CUDA: built for the CPU" in seen or facts["cuda"]
    assert content["frameworks"]["jax"]["versions"].keys() == {"jax", "jaxlib", "flax", "optax"}
    assert f"compile cache: {os.environ['JAX_COMPILATION_CACHE_DIR']} can be written to" in seen
    assert "MNIST: four files with the published SHA-256 sums" in seen
    versions = [metadata.version(package) for package in ("visdom", "tornado", "tensorflow-datasets")]
    assert f"Visdom: {versions[0]} with tornado {versions[1]} serves its page" in seen
    assert f"TFDS: {versions[2]}" in seen


def test_a_closed_port_is_named_with_its_fix(healthy, closed_port):
    line = f"note   Visdom server: no Visdom server at http://localhost:{closed_port} (Connection refused)"
    fix = f"runs start without it; fix: python -m mlp_workload.dashboard --port {closed_port}"
    assert f"{line}; {fix}" in healthy[0].stdout.splitlines()


COPIED = pytest.mark.long("copies packages, and starts what is left of each framework")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Torch without a library, tornado 6.6, a file of MNIST that is another, and no place for compiled programs."""
    folder = tmp_path_factory.mktemp("broken")
    original = Path(find_spec("torch").origin).parent
    (folder / "first/torch/lib").mkdir(parents=True)
    for path in (*original.iterdir(), *(original / "lib").iterdir()):
        if path.name not in ("lib", "libtorch_cpu.so"):
            (folder / "first/torch" / path.relative_to(original)).symlink_to(path)
    as_tornado_6_6(folder / "first")
    for package in ("jax_mlp", "mlp_workload", "reference_torch"):
        shutil.copytree(ROOT / package, folder / "second" / package, ignore=shutil.ignore_patterns("__pycache__"))
    spoil(folder / "second/mlp_workload/data/mnist/t10k-labels-idx1-ubyte.gz")
    (folder / "a file").touch()
    path = (folder / "first", folder / "second")
    return doctor(folder, path=path, JAX_COMPILATION_CACHE_DIR=str(folder / "a file/cache"), VISDOM_PORT="x")


def as_tornado_6_6(folder):
    """The tornado that is installed, and what changed with 6.6: a file outside the static folder is refused."""
    shutil.copytree(Path(find_spec("tornado").origin).parent, folder / "tornado")
    plant_version(folder, "tornado", "6.6")
    with (folder / "tornado/web.py").open("a") as file:
        file.write("""

def _within(cls, root, path, get=StaticFileHandler.get_absolute_path.__func__):
    if os.path.relpath(get(cls, root, path), root).startswith(".."):
        raise HTTPError(403)
    return get(cls, root, path)

StaticFileHandler.get_absolute_path = classmethod(_within)
""")


def spoil(file):
    """One label is another; the file itself is whole."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[-1] ^= 1
    file.write_bytes(gzip.compress(content))


BROKEN = {
    "MNIST": ("t10k-labels-idx1-ubyte.gz: damaged, its content has SHA-256 ", "--no-deps . in the project's folder"),
    "packages": ("tornado 6.6, but tornado<6.6 is needed", "pip install 'tornado<6.6'"),
    "compile cache": (
        "a file is not a folder), so every run compiles again",
        "unset JAX_COMPILATION_CACHE_DIR, or",
    ),
    "PyTorch": (
        "import torch fails: libtorch_cpu.so: cannot open shared object file",
        f"pip install --force-reinstall torch=={TORCH_RELEASE}",
    ),
    "Visdom": ("with tornado 6.6 answers 403 Forbidden instead of its page", "pip install 'tornado<6.6'"),
    "Visdom server": ("VISDOM_PORT must be from 1 to 65535, got 'x'", "correct the variable, or unset it"),
}


@COPIED
@pytest.mark.parametrize("name", BROKEN)
def test_each_thing_that_is_broken_is_found_with_its_fix(name, broken):
    assert (broken.returncode, broken.stderr) == (1, "")
    (line,) = [line for line in broken.stdout.splitlines() if line.startswith(f"wrong  {name}: ")]
    seen, fix = BROKEN[name]
    assert seen in line.partition("; fix: ")[0]
    assert fix in line.partition("; fix: ")[2]
    assert f"{len(BROKEN)} wrong, " in broken.stdout


@COPIED
def test_the_rest_of_a_broken_installation_is_still_looked_at(broken):
    assert "ok     JAX: jax " in broken.stdout
    assert "ok     JAX product: " in broken.stdout
    assert "ok     TFDS: " in broken.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--frobnicate", "unrecognized arguments: --frobnicate"),
        ("--json there", "--json there exists"),
        ("--json no/where", "cannot write no/where"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, run, tmp_path):
    (tmp_path / "there").touch()
    assert_one_line(run("mlp_workload.doctor", *arguments.split()), message)


def test_it_says_what_it_needs_itself(tmp_path):
    plant_package(tmp_path, "rich", "raise ModuleNotFoundError('No module named rich')")
    process = doctor(tmp_path, path=(tmp_path, ROOT))
    assert (process.returncode, process.stderr) == (1, "")
    assert (
        process.stdout
        == "wrong  packages: No module named rich; fix: make setup, or pip install . in the project's folder\n"
    )


ENDS = [
    ("raise ModuleNotFoundError('', name='jax')", "not installed", "make setup, or pip install . in"),
    ("raise ModuleNotFoundError('', name='optax')", "optax is not installed", "make setup, or pip install . in"),
    (
        "raise RuntimeError('jaxlib is too new')",
        f"{JAX_RELEASE}, import jax fails: jaxlib is too new (RuntimeError)",
        f"pip install --force-reinstall jax=={JAX_RELEASE} jaxlib=={metadata.version('jaxlib')}",
    ),
    ("raise OSError('libz.so.1')", "import jax fails: libz.so.1 (OSError)", "pip install --force-reinstall jax=="),
    pytest.param(
        "import time; time.sleep(600)", "import jax hangs, no answer within 10 s", "pip install --force-reinstall",
        marks=pytest.mark.long("waits ten seconds for a process that hangs"),
    ),
    ("import os; os.kill(os.getpid(), 11)", "import jax ends the process by SIGSEGV", "pip install --force-reinstall"),
    ("import os; os.kill(os.getpid(), 9)", "by SIGKILL, which is also how the system frees", "close other programs"),
    ("import sys; sys.exit('no')", "import jax ends the process with status 1: no", "pip install --force-reinstall"),
    (
        "__version__ = 'v'; lax = Device = None; import sys; version = sys.modules['jax']; "
        "sys.modules |= {'jaxlib': version, 'jaxlib.version': version}; "
        "devices = lambda: __import__('os').abort()",
        "looking for devices ends the process by SIGABRT",
        "unset JAX_PLATFORMS",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("source", "seen", "fix"), ENDS)
def test_however_a_framework_ends_it_is_one_finding(source, seen, fix, tmp_path, monkeypatch):
    plant_package(tmp_path, "jax", f"print(5)  # which is JSON, too\n{source}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    answer = Answer.of("jax_mlp.doctor_probe", seconds=10 if "sleep" in source else 60)
    cache, finding = frameworks.findings(JAX, answer, Gpus())
    assert (cache.name, cache.state) == ("compile cache", "ok"), "what was answered before counts"
    assert (finding.name, finding.state) == ("JAX", "wrong")
    assert seen in finding.seen
    assert fix in finding.fix


def test_a_framework_that_hangs_is_one_finding():
    (finding,) = frameworks.findings(JAX, Answer({"doing": "import jax"}, None, 2, ""), Gpus())
    assert (finding.state, finding.seen) == ("wrong", f"{JAX_RELEASE}, import jax hangs, no answer within 2 s")


def test_a_torch_that_is_not_there_is_no_fault(tmp_path, monkeypatch):
    plant_package(tmp_path, "torch", "raise ModuleNotFoundError('', name='torch')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    (line,) = lines(frameworks.findings(TORCH, Answer.of("reference_torch.doctor_probe"), Gpus()))
    assert line.startswith("note PyTorch: not installed, only ")
    assert line.endswith("; fix: make setup, or pip install '.[torch]' in the project's folder")


def tf32(array):
    """With the 10 bits behind the point that NVIDIA's TF32 keeps."""
    return (array.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.parametrize(
    ("multiply", "state"),
    [
        (lambda x, y: x @ y, "ok"),
        (lambda x, y: tf32(x) @ tf32(y), "wrong"),
        (lambda x, y: 1.0001 * (x @ y), "wrong"),
        (lambda x, y: np.nan * (x @ y), "wrong"),
    ],
    ids=["NumPy's", "TF32", "a ten-thousandth too much", "nan"],
)
def test_a_product_is_held_against_numpys(multiply, state):
    assert frameworks._product(TORCH, **product(multiply)).state == state


def test_a_variable_that_spoils_products_is_named(monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert frameworks._product(JAX, 1.0, 0.1).fix == "unset NVIDIA_TF32_OVERRIDE"


LOAD = """
import ctypes, json, sys
from mlp_workload.doctor.libraries import loaded
for path in sys.argv[1:]:
    ctypes.CDLL(path)
print(json.dumps(loaded()))
"""
LIBRARIES = """
extern "C" {
int cudaRuntimeGetVersion(int *version) { *version = 12090; return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cublasGetProperty(int part, int *version) { *version = 12 + part; return 0; }
unsigned long cudnnGetVersion() { return 91002; }
int ncclGetVersion(int *version) { *version = 22703; return 0; }
}
"""


def test_loaded_libraries_say_their_versions_and_files(tmp_path):
    """Real shared libraries, that answer as NVIDIA's do."""
    (tmp_path / "all.cpp").write_text(LIBRARIES)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", "all.so", "all.cpp"], cwd=tmp_path, check=True)
    expected = {"libcuda.so.1": "13.0", "libcudart.so.12": "12.9", "libcublas.so.12": "12.13.14",
                "libcudnn.so.9": "9.10.2", "libnccl.so.2": "2.27.3"}  # fmt: skip
    for name in (*expected, "libcudnn_ops.so.9"):
        shutil.copy(tmp_path / "all.so", tmp_path / name)
    command = [sys.executable, "-c", LOAD, *map(str, tmp_path.glob("lib*"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    output = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
    assert json.loads(output) == {
        name.partition(".")[0]: {"version": version, "file": str(tmp_path / name)} for name, version in expected.items()
    }


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Plants a program of that name, and the kernel's file; what `Gpus` finds."""

    def plant(output, status=0, driver=None):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{output}'\nexit {status}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        for variable in ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
            monkeypatch.delenv(variable, raising=False)
        if driver:
            module = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Tue Jan  1 00:00:00 UTC 2026\n"
            (tmp_path / "version").write_text(f"{module}GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n")
        return Gpus.find(tmp_path / "version")

    return plant


H100 = "NVIDIA H100, 580.65.06, 81559, 80000, 9.0"


@pytest.mark.parametrize(
    ("output", "status", "driver", "expected"),
    [
        (H100, 0, "580.65.06", ["ok NVIDIA: NVIDIA H100, driver 580.65.06, 78.1 of 79.6 GiB free"]),
        (H100, 0, None, ["ok NVIDIA: NVIDIA H100, driver 580.65.06, 78.1 of 79.6 GiB free"]),
        ("", 0, "550.54.15", ["note NVIDIA: driver 550.54.15 is loaded, but no GPU is seen here; "
                              "fix: in a container: start it with --gpus all"]),
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "550.54.15",
         ["wrong NVIDIA: driver 550.54.15, Failed to initialize NVML: Driver/library version mismatch; "
          "fix: restart the machine"]),
        ("NVIDIA GB10, 580.1, [N/A], [N/A], 12.1", 0, None, ["ok NVIDIA: NVIDIA GB10, driver 580.1"]),
        ("NVIDIA T4, 570.1, 16384, 1024, 7.5", 0, None,
         ["note NVIDIA: NVIDIA T4, driver 570.1, 1.0 of 16.0 GiB free, which is low; "
          "fix: end the processes that use it: nvidia-smi lists them"]),
    ],
    ids=["a GPU", "as on WSL", "no GPU", "an updated driver", "shared memory", "a GPU in use"],
)  # fmt: skip
def test_the_driver_and_its_gpus(output, status, driver, expected, nvidia_smi):
    assert lines(nvidia_smi(output, status, driver).findings()) == expected


@pytest.mark.parametrize(
    ("driver", "capability", "extra"),
    [("580.1", "9.0", "cuda13"), ("580.1", "7.0", "cuda12"), ("579.9", "9.0", "cuda12"), ("525.6", "9.0", "cuda12"),
     ("470.1", "7.5", None)],
)  # fmt: skip
def test_jaxs_extra_follows_the_driver_and_the_oldest_gpu(driver, capability, extra):
    assert Gpus(driver, (Gpu("new", 1, 1, "12.0"), Gpu("old", 1, 1, capability))).extra() == extra


ON_CPU = {"devices": [{"name": "cpu", "memory": None}], "versions": {}, "threads": 2, "libraries": {}}
BUILT = {"cuda": {"cuda": "13.0", "cudnn": "9.10.2"}}
TOO_OLD = "The NVIDIA driver on your system is too old"


@pytest.mark.parametrize(
    ("framework", "facts", "driver", "expected"),
    [
        (JAX, {"cuda": None, "no_gpu": None}, "580.1",
         f"note JAX device: built for the CPU, though there is a H100; fix: pip install 'jax[cuda13]=={JAX_RELEASE}'"),
        (JAX, {"cuda": None, "no_gpu": None}, "450.1",
         "note JAX device: built for the CPU, though there is a H100; fix: update NVIDIA's driver to 580"),
        (JAX, BUILT | {"no_gpu": "unknown backend"}, "580.1",
         "wrong JAX device: built for CUDA 13.0, but does not see the H100: cuSPARSE is too old; "
         f"fix: pip install 'jax[cuda13]=={JAX_RELEASE}'"),
        (TORCH, {"cuda": None, "no_gpu": None}, "580.1",
         f"note PyTorch device: built for the CPU, though there is a H100; "
         f"fix: pip install --force-reinstall torch=={TORCH_RELEASE}"),
        (TORCH, BUILT | {"no_gpu": TOO_OLD}, "550.1",
         f"wrong PyTorch device: built for CUDA 13.0, but does not see the H100: {TOO_OLD}; "
         "fix: update NVIDIA's driver to 580"),
    ],
    ids=["JAX for the CPU", "and an old driver", "JAX fails", "torch for the CPU", "torch and an old driver"],
)  # fmt: skip
def test_a_gpu_that_a_framework_does_not_see(framework, facts, driver, expected):
    gpus = Gpus(driver, (Gpu("H100", 81559, 80000, "9.0"),))
    assert expected in lines(frameworks.findings(framework, Answer(ON_CPU | facts, 0, 60, "cuSPARSE is too old"), gpus))


def test_plugins_for_cuda_that_are_not_jaxlibs(tmp_path, monkeypatch):
    assert list(frameworks._plugins()) == []
    jaxlib = metadata.version("jaxlib")
    plant_version(tmp_path, "jax-cuda12-plugin", "0.4.31")
    plant_version(tmp_path, "jax-cuda12-pjrt", jaxlib)
    monkeypatch.syspath_prepend(tmp_path)
    expected = (
        f"wrong JAX CUDA: jax-cuda12-plugin 0.4.31, but jaxlib {jaxlib}; fix: pip install 'jax[cuda12]=={JAX_RELEASE}'"
    )
    assert lines(frameworks._plugins()) == [expected]
    plant_version(tmp_path, "jax-cuda13-plugin", jaxlib)
    assert lines(frameworks._plugins()) == [
        expected,
        "note JAX CUDA: plugins for two versions of CUDA are installed; "
        "fix: pip uninstall jax-cuda12-plugin jax-cuda12-pjrt",
    ]


@pytest.mark.parametrize(("variable", "value"), [("CUDA_VISIBLE_DEVICES", ""), ("JAX_PLATFORMS", "cpu")])
def test_a_variable_that_hides_the_gpu_is_named(variable, value, monkeypatch):
    monkeypatch.setenv(variable, value)
    gpus, answer = Gpus("580.1", (Gpu("H100", 81559, 80000, "9.0"),)), Answer(ON_CPU | BUILT, 0, 60, "")
    expected = f"note JAX device: {variable} hides the H100; fix: unset {variable}"
    assert expected in lines(frameworks.findings(JAX, answer, gpus))


def test_cuda_and_cudnn_with_their_files(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cuda/lib64:")
    facts = {
        "devices": [{"name": "gpu (H100)", "memory": 2**36}], "versions": {"torch": "2"}, "threads": 16, **BUILT,
        "libraries": {
            "libcudart": {"version": "12.4", "file": "/opt/cuda/lib64/libcudart.so.12"},
            "libcublas": {"version": "13.0.0", "file": "/site-packages/nvidia/libcublas.so.13"},
            "libcudnn": {"version": "9.1.0", "file": "/site-packages/nvidia/libcudnn.so.9"},
        },
    }  # fmt: skip
    assert lines(frameworks.findings(TORCH, Answer(facts, 0, 60, ""), Gpus())) == [
        "ok PyTorch: torch 2; sees gpu (H100) with 64.0 GiB; 16 threads",
        "ok PyTorch CUDA: built for CUDA 13.0 and cuDNN 9.10.2",
        "note PyTorch CUDA: libcudart 12.4, /opt/cuda/lib64/libcudart.so.12, by LD_LIBRARY_PATH; "
        "fix: unset LD_LIBRARY_PATH",
        "ok PyTorch CUDA: libcublas 13.0.0, /site-packages/nvidia/libcublas.so.13",
        "wrong PyTorch CUDA: libcudnn 9.1.0, /site-packages/nvidia/libcudnn.so.9, but cuDNN 9.10.2 is needed; "
        f"fix: pip install --force-reinstall torch=={TORCH_RELEASE}",
    ]


@pytest.mark.parametrize(
    ("there", "built", "suits"),
    [("9.10.2", "9.10.1", True), ("9.10.0", "9.10.2", True), ("9.11.0", "9.10.2", True), ("9.9.0", "9.10.2", False),
     ("10.0.0", "9.10.2", False), ("unknown", "9.10.2", True), ("9.1.0", None, True)],
)  # fmt: skip
def test_which_cudnn_suits(there, built, suits):
    assert frameworks._suits(there, built) is suits


def test_each_file_of_mnist_that_is_damaged_is_named(tmp_path):
    folder = shutil.copytree(shipped.FOLDER, tmp_path / "mnist")
    spoil(folder / "train-labels-idx1-ubyte.gz")
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    labels, images = lines(mnist_files.findings(folder))
    assert "wrong MNIST: " in labels
    assert "train-labels-idx1-ubyte.gz: damaged, its content has SHA-256 " in labels
    assert "t10k-images-idx3-ubyte.gz: No such file" in images


def test_a_checkout_brings_its_files_back(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_files, "_CHECKOUT", tmp_path)
    assert (
        mnist_files._fix(tmp_path / "data/mnist") == "pip install --force-reinstall --no-deps . in the project's folder"
    )
    (tmp_path / ".git").touch()
    assert mnist_files._fix(tmp_path / "data/mnist") == f"git -C {tmp_path} checkout data/mnist"
    assert mnist_files._fix(Path("/elsewhere")) == "pip install --force-reinstall --no-deps . in the project's folder"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").touch()
    return tmp_path / "file"


def test_a_place_where_nothing_can_be_written(file, tmp_path, monkeypatch):
    """Also for root, whom no permission keeps out."""
    assert folders.refusal(tmp_path / "not/there/yet") is None
    assert list(tmp_path.iterdir()) == [file]
    assert folders.refusal(file) == folders.refusal(file / "a/b") == f"{file} is not a folder"
    assert folders.refusal(Path("/proc/nowhere")) == "No such file or directory"
    monkeypatch.chdir(tmp_path)
    assert folders.runs().state == "ok"
    (tmp_path / "runs").touch()
    finding = folders.runs()
    assert (finding.state, finding.fix) == ("wrong", "start in one of your own folders, or name one with --run-dir")
    assert finding.seen == f"nothing can be written to {tmp_path}/runs (runs is not a folder)"
    (tmp_path / "runs").unlink()
    monkeypatch.setattr(folders, "LITTLE", 1e15)
    assert (folders.runs().state, folders.runs().fix) == ("note", "free some space there")


def test_where_compiled_programs_are_kept(file, tmp_path, monkeypatch):
    def cache(named=None, home=tmp_path):
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        if named is not None:
            monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", named)
        finding = frameworks._cache(*jax_probe._cache().values())
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
        return f"{finding.state} {finding.seen}", finding.fix

    anew = "so every run compiles again"
    assert cache() == (f"ok {tmp_path}/jax-mlp can be written to", None)
    assert cache("") == ("ok off, because JAX_COMPILATION_CACHE_DIR is empty", None)
    assert cache("gs://bucket/x") == ("ok gs://bucket/x is not looked into", None)
    assert cache(f"{file}/x") == (
        f"wrong {file}/x can't be used ({file} is not a folder), {anew}",
        "unset JAX_COMPILATION_CACHE_DIR, or name one of your own folders there",
    )
    assert cache(home=file) == (
        f"wrong {file}/jax-mlp can't be used ({file} is not a folder), {anew}",
        "name one of your own folders in JAX_COMPILATION_CACHE_DIR",
    )
    (tmp_path / "jax-mlp").mkdir()
    assert cache()[0].startswith("ok ")
    (tmp_path / "jax-mlp").chmod(0o777)
    assert cache()[0].startswith(f"wrong {tmp_path}/jax-mlp can't be used (others can write to it, ")


def test_a_port_that_something_else_holds(monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        monkeypatch.setenv("VISDOM_PORT", str(other.server_port))
        finding = visdom_server.server()
    assert "answers 501" in finding.seen
    assert finding.fix == f"stop what listens at port {other.server_port}, or name another port by VISDOM_PORT"


def test_a_server_that_answers(tmp_path, monkeypatch):
    server = VisdomProcess(tmp_path / "visdom")
    monkeypatch.setenv("VISDOM_PORT", str(server.port))
    try:
        server.start()
        assert lines([visdom_server.server()]) == [f"ok Visdom server: one answers at http://localhost:{server.port}"]
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"status": 200, "lacks": 3},
         ["ok Visdom: 0.2.4 with tornado 6.5 serves its page",
          "note Visdom: 3 files of its page are not downloaded yet; "
          "fix: python -m mlp_workload.dashboard, which downloads them"]),
        ({"status": 200, "lacks": 3, "closed": "/static"},
         ["ok Visdom: 0.2.4 with tornado 6.5 serves its page",
          "note Visdom: 3 files of its page are not downloaded yet; "
          "fix: python -m mlp_workload.dashboard, started by a user who may write /static, which downloads them"]),
        ({"status": 500, "reason": "Internal Server Error"},
         ["wrong Visdom: 0.2.4 with tornado 6.5 answers 500 Internal Server Error instead of its page; "
          "fix: pip install --force-reinstall visdom"]),
        ({"doing": "import visdom", "error": {"type": "ImportError", "said": "no", "missing": None}},
         ["wrong Visdom: 0.2.4 with tornado 6.5 import visdom fails: no (ImportError); "
          "fix: make setup, or pip install '.[visdom]' in the project's folder"]),
    ],
)  # fmt: skip
def test_what_visdoms_page_lacks(facts, expected):
    facts = {"versions": {"visdom": "0.2.4", "tornado": "6.5"}} | facts
    assert lines(visdom_server.page(Answer(facts, 0, 60, ""))) == expected


def test_a_tfds_that_does_not_import(tmp_path, monkeypatch):
    plant_package(tmp_path, "importlib_resources", "raise ModuleNotFoundError('no such thing')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    finding = next(packages.tfds())
    assert finding.state == "wrong"
    assert "import importlib_resources fails: no such thing (ModuleNotFoundError)" in finding.seen
    assert finding.fix == "pip install '.[tfds]' in the project's folder"


def test_versions_out_of_the_projects_range(tmp_path, monkeypatch):
    assert lines(packages.ranges()) == ["ok packages: all installed packages have versions that jax-mlp supports"]
    plant_version(tmp_path, "tornado", "6.6.0")
    plant_version(tmp_path, "flax", "0.12.0")
    monkeypatch.syspath_prepend(tmp_path)
    assert lines(packages.ranges()) == [
        "wrong packages: flax 0.12.0, but flax>=0.12.1 is needed; fix: pip install 'flax>=0.12.1'",
        "wrong packages: tornado 6.6.0, but tornado<6.6 is needed; fix: pip install 'tornado<6.6'",
    ]


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.13.0+cpu", (2, 13)), ("6.6", (6, 6)), ("6.6b1", (6, 6)), ("1.0.0", (1,)), ("x", ())]
)
def test_the_numbers_of_a_version(version, numbers):
    assert packages.release(version) == numbers


def test_memory_within_a_containers_limit(tmp_path):
    assert machine.memory(tmp_path).seen == "this system does not say how much is free"
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   8000000 kB\n")
    assert lines([machine.memory(tmp_path)]) == ["ok memory: 8.2 GB free"]
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for name, text in {"max": "max\n", "current": "3000000000\n", "stat": "anon 1\ninactive_file 500000000\n"}.items():
        (group / f"memory.{name}").write_text(text)
    assert lines([machine.memory(tmp_path)]) == ["ok memory: 8.2 GB free"]
    (group / "memory.max").write_text("30000000000\n")
    assert lines([machine.memory(tmp_path)]) == ["ok memory: 8.2 GB free under a cgroup's limit of 30.0 GB"]
    (group / "memory.max").write_text("3300000000\n")
    seen = "note memory: 0.8 GB free under a cgroup's limit of 3.3 GB"
    assert lines([machine.memory(tmp_path)]) == [f"{seen}; fix: close other programs, or raise the limit"]


def test_a_cpu_quota_stands_beside_the_cores(monkeypatch):
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr(machine, "runnable_cores", lambda: 4)
    assert ", 4 cores under a CPU quota of 1.5, " in machine.python().seen


def test_the_variables_that_steer_a_framework_are_shown(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    monkeypatch.setenv("JAX_THREEFRY_PARTITIONABLE", "0")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    seen = machine.variables().seen
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=.5" in seen
    assert "JAX_THREEFRY_PARTITIONABLE=0" in seen
    assert "elsewhere" not in seen
