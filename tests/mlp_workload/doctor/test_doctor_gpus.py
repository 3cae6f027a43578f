"""What the doctor says of GPUs: the driver, CUDA and its libraries, and frameworks that do not see them."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
from doctor_helpers import JAX_RELEASE, TORCH_RELEASE, lines, plant_version
from helpers import ROOT

from mlp_workload.doctor import frameworks, libraries
from mlp_workload.doctor.answer import Answer
from mlp_workload.doctor.frameworks import JAX, TORCH
from mlp_workload.doctor.gpus import Gpu, Gpus

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


@pytest.mark.parametrize(("number", "version"), [(8907, "8.9.7"), (90000, "9.0.0"), (91002, "9.10.2")])
def test_the_number_of_a_cudnn_is_its_version(number, version):
    assert libraries.cudnn_version(number) == version


def test_cuda_and_cudnn_with_their_files(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cuda/lib64:")
    facts = {
        "devices": [{"name": "gpu (H100)", "memory": 2**36}], "versions": {"torch": "2"}, "threads": 16, **BUILT,
        "libraries": {
            "libcuda": {"version": "13.0", "file": "/opt/cuda/lib64/libcuda.so.1"},
            "libcudart": {"version": "12.4", "file": "/opt/cuda/lib64/libcudart.so.12"},
            "libcublas": {"version": "13.0.0", "file": "/site-packages/nvidia/libcublas.so.13"},
            "libcudnn": {"version": "9.1.0", "file": "/site-packages/nvidia/libcudnn.so.9"},
        },
    }  # fmt: skip
    assert lines(frameworks.findings(TORCH, Answer(facts, 0, 60, ""), Gpus())) == [
        "ok PyTorch: torch 2; sees gpu (H100) with 64.0 GiB; 16 threads",
        "ok PyTorch CUDA: built for CUDA 13.0 and cuDNN 9.10.2",
        "ok PyTorch CUDA: libcuda 13.0, /opt/cuda/lib64/libcuda.so.1",
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
