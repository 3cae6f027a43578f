"""Every test is in a tier, and each that `make test` leaves out says why."""

import re
import tomllib
from fnmatch import fnmatch

import pytest
from helpers import ROOT

pytest_plugins = ["pytester"]

TESTS = ROOT / "tests"
MAKEFILE = (ROOT / "Makefile").read_text()
LEFT_OUT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["norecursedirs"]
TIERS = ("test", "test-long", "test-ports", "test-tensorflow", "package")


def test_every_file_of_tests_is_in_a_tier():
    """`make test` and `make test-long` share what pytest finds; a folder that it leaves out has a target of its own."""
    for file in TESTS.rglob("*.py"):
        if not re.search(r"^ *(?:async )?def test_", file.read_text(), re.M):
            continue
        assert file.name.startswith("test_"), f"pytest does not collect {file}"
        folders = [folder.as_posix() for folder in file.relative_to(ROOT).parents]
        left_out = any(fnmatch(f"/{folder}", f"*/{pattern}") for folder in folders[:-1] for pattern in LEFT_OUT)
        assert not left_out or f"$(PYTEST_ARGS) {folders[0]}\n" in MAKEFILE, f"no target runs {file}"


def test_make_test_all_and_ci_run_all_tiers():
    (everything,) = re.findall(r"^test-all: ([\w -]+)  ##", MAKEFILE, re.M)
    assert set(everything.split()) >= set(TIERS)
    ci = (ROOT / ".ci/run").read_text()
    for tier in TIERS:
        assert re.search(rf"^stage {tier} make {tier} ", ci, re.M), tier
    assert re.findall(r' -m "(.*)"', MAKEFILE) == ["not long", "long"], "what the one leaves out the other runs"


@pytest.mark.parametrize(("mark", "status"), [("long", 4), ('long(" ")', 4), ('long("large data")', 0)])
def test_a_long_test_without_a_reason_is_refused(mark, status, pytester):
    pytester.makepyfile(f"import pytest\n\n@pytest.mark.{mark}\ndef test_it():\n    pass\n")
    result = pytester.runpytest_inprocess("-p", "tiers", "--strict-markers")
    assert result.ret == status
    assert status == 0 or "::test_it: long takes one argument, the reason" in result.stderr.str()
