"""What the whole test session shares: strict numerics, the data, and the commands as users run them."""

import ctypes
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from compiled import compiled_programs

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Each worker and what it starts keep to cores of their own: threads of several programs that spin for the same
    # cores take many times as long. It must be said before the frameworks count the cores.
    cores = sorted(os.sched_getaffinity(0))
    first, workers = (
        int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")),
        int(os.environ["PYTEST_XDIST_WORKER_COUNT"]),
    )
    os.sched_setaffinity(0, cores[first::workers] or {cores[first % len(cores)]})

if "PYTEST_XDIST_WORKER" not in os.environ:  # whose workers inherit this
    # Compiled programs are kept for other commands and for later sessions, apart from the user's own. Compiling takes
    # half the time of a first session.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compiled_programs())
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest
import warm
from helpers import ROOT, make_digits, write_idx_folder
from hypothesis import settings
from warm import python

import jax_mlp.train
from mlp_workload.config import Config
from mlp_workload.data import Dataset, load
from mlp_workload.predict.trained import Trained
from mlp_workload.run.output_options import OutputOptions

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
settings.register_profile("compiling", deadline=None)  # the first call of a JAX function compiles
settings.load_profile("compiling")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it, its children too

pytest_plugins = ["tiers"]

warm.ENVIRONMENT |= os.environ

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure(config: pytest.Config) -> None:
    """Starts the stand-in for the interpreter that the workers share, if there are any."""
    if (workers := getattr(config.option, "numprocesses", None)) and sys.platform == "linux":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[::workers])  # as many as each worker has, for the threads of libraries
        os.environ[warm.SHARED] = warm.start()
        os.sched_setaffinity(0, cores)


def pytest_collection_finish() -> None:
    """Leaves all that is imported by now out of later garbage collections, which take half a second with it."""
    gc.freeze()


@pytest.fixture(autouse=True)
def restored_environment() -> Iterator[None]:
    """Takes back what a test, or a trainer in this process, left in the environment, of which commands have a copy."""
    yield
    for name in [name for name in os.environ if name not in warm.ENVIRONMENT and name != "PYTEST_CURRENT_TEST"]:
        del os.environ[name]
    os.environ.update(warm.ENVIRONMENT)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory() -> Iterator[None]:
    """Frees compiled programs, which would take gigabytes by the end of a session."""
    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # else the C library keeps what is free


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    return load("mnist")


@pytest.fixture
def digits() -> Dataset:
    return make_digits()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `python -m MODULE ARGUMENT...` in an empty folder; the process's result with its output as text."""

    def run(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | options.pop("env", {})
        command = [*options.pop("prefix", ()), python(), *options.pop("python", ()), "-m", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, **{"timeout": 240} | options
        )

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a run on `digits`, whose epochs are five batches of 20 and one of 3."""
    data = write_idx_folder(tmp_path_factory.mktemp("digits"), make_digits())
    return ["--dataset", data, "--hidden", "8", "6", "--batch-size", "20"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of an epoch, at about 95 % of the test set."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    config = Config(epochs=1, momentum=0.9, learning_rate=0.1, last_activation="none", run_dir=folder)
    jax_mlp.train.train(config, OutputOptions(visdom="off", quiet=True))
    return Trained.load(folder)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A copy of the packages, to break."""
    for package in ("jax_mlp", "mlp_compare", "mlp_workload", "reference_torch"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path
