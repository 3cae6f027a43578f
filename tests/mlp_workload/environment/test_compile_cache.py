"""What a second process finds of the first one's compiled programs."""

import json
import os
import stat
import subprocess
import sys

import pytest
from helpers import ROOT

from mlp_workload.environment.compile_cache import keep_compiled_programs

COLD = pytest.mark.long("starts JAX several times, without its compiled programs")
_TRAIN = """
import collections, json, sys
from jax_mlp.train import main
from mlp_workload.environment.compile_cache import keep_compiled_programs
keep_compiled_programs()  # as main does, before JAX is imported
import jax
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.rpartition("/")[2]]))
flags = "--visdom off --epochs 1 --last-activation none"
sys.argv = ["train", *flags.split(), *sys.argv[1:]]
main()
print(json.dumps(counts))
"""


@pytest.fixture
def train(small, tmp_path):
    """Trains in a process of its own and returns how often the cache was asked, and did have a program."""

    def train(name, *flags, **variables):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")} | variables
        command = [sys.executable, "-c", _TRAIN, "--run-dir", name, *small, *flags]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert (result.returncode, result.stderr) == (0, "")
        counts = json.loads(result.stdout.splitlines()[-1])
        return counts.get("compile_requests_use_cache", 0), counts.get("cache_hits", 0)

    return train


@COLD
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_second_run_compiles_nothing(train, tmp_path, dtype):
    asked, hits = train("first", "--dtype", dtype)
    assert asked >= 3, "initial weights, epoch, evaluation"
    assert hits == 0
    assert train("second", "--dtype", dtype) == (asked, asked)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]


@COLD
@pytest.mark.parametrize("flags", [[], ["--dtype", "float64"]], ids=["float32", "float64"])
def test_another_seed_compiles_nothing(train, flags):
    asked, _ = train("first", *flags)
    assert train("other seed", *flags, "--seed", "5") == (asked, asked)
    assert train("other batches", *flags, "--batch-size", "10")[1] < asked, "another program is compiled"


@COLD
def test_a_damaged_program_is_compiled_anew(train, tmp_path):
    asked, _ = train("first")
    for file in (tmp_path / "cache/jax-mlp").glob("*-cache"):
        file.write_bytes(file.read_bytes()[:100])
    assert train("second") == (asked, 0)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where programs are kept if the user has named no place."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/jax-mlp"


def kept() -> dict[str, str]:
    """The variables of JAX that say so."""
    before = dict(os.environ)
    keep_compiled_programs()
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def test_programs_are_kept_in_a_folder_of_the_users_own(folder):
    assert kept() == {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_home_has_it_if_no_place_for_caches_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for relative in ("", "caches"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        assert kept()["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / ".cache/jax-mlp")


def test_a_time_of_the_users_own_stands(folder, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    assert kept() == {"JAX_COMPILATION_CACHE_DIR": str(folder)}


@pytest.mark.parametrize("place", ["", "/own"])
def test_a_place_of_the_users_own_stands(place, folder, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", place)
    assert kept() == {}
    assert not folder.exists()


def test_without_a_place_to_write_nothing_is_kept(folder):
    folder.parent.write_text("a file where the folder should be")
    assert kept() == {}


@pytest.mark.parametrize("mode", [0o770, 0o707], ids=["the group", "everybody"])
def test_a_folder_that_others_can_write_to_is_not_used(mode, folder):
    """What lies there is run."""
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert kept() == {}


def test_it_is_said_before_jax_is_imported():
    code = (
        "import sys, jax_mlp.train\n"
        "jax_mlp.train.keep_compiled_programs = lambda: sys.exit('late' if 'jax' in sys.modules else 'in time')\n"
        "jax_mlp.train.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "in time\n")
