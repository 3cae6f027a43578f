"""`python -m twincheck`: exit statuses, files, and one line for what is wrong."""

import json

import pytest
import small_port
from helpers import assert_one_line

from twincheck.__main__ import _shown

FILE = small_port.__file__


def test_the_same_model_ends_in_0_and_writes_page_and_json(run, tmp_path):
    process = run("twincheck", f"{FILE}:right", "--html", "a.html", "--json", "a.json")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("the same in all ")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["verdict"] == process.stdout.splitlines()[0]
    assert f"<title>{content['verdict']}</title>" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("function", "status"), [("wrong", 1), pytest.param("paired", 0, marks=pytest.mark.long("one more pair"))]
)
def test_the_status_is_1_if_they_differ(function, status, run):
    process = run("twincheck", f"{FILE}:{function}")
    assert (process.returncode, process.stderr) == (status, "")
    assert process.stdout.startswith("not the same model: " if status else "the same ")


def test_a_module_is_found_in_the_current_folder(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/port.py").write_text("def sides():\n    import neighbour\n")
    process = run("twincheck", "mine.port:sides")
    assert_one_line(process, r"mine\.port:sides: ModuleNotFoundError: .*'neighbour' \(.*port\.py, line 2, in sides\)")
    (tmp_path / "mine/neighbour.py").write_text("")
    process = run("twincheck", "mine/port.py:sides")  # beside which Python finds modules, as of a program
    assert_one_line(process, r"mine/port\.py:sides returned None: return twincheck\.torch\(")


def test_a_file_may_be_called_like_a_loaded_module(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/string.py").write_text(
        "import typing\n\nclass Size(int):\n    pass\n\nclass Config:\n    size: 'Size'\n\n"
        "def sides():\n    return typing.get_type_hints(Config)['size'].__name__\n"
    )
    assert_one_line(run("twincheck", "mine/string.py:sides"), r"mine/string\.py:sides returned 'Size': return ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: FILE_OR_MODULE:FUNCTION"),
        (["port.py"], "port.py: name a function, such as port.py:sides"),
        ([":sides"], "name a function"),
        (["missing.py:sides"], "missing.py: no such file"),
        ([".:sides"], "there is no module|no such file"),
        (["no.such.module:sides"], "there is no module no.such.module"),
        (["math:sides"], "math has no function sides"),
        (["math:pi"], "math has no function pi"),
        (["math:cos"], "math:cos: TypeError: math.cos"),
        ([f"{FILE}:raises"], r"ValueError: of its own \(.*small_port\.py, line \d+, in raises\)"),
        ([f"{FILE}:ends_the_program"], r"SystemExit: 0 \("),
        ([f"{FILE}:returns_nothing"], r"returned None: return twincheck\.torch\(\.\.\.\), twincheck\.nnx\("),
        ([f"{FILE}:returns_sides_in_the_wrong_order"], r"returned \(.*: return twincheck\.torch\("),
        ([f"{FILE}:fails_when_it_runs"], r"TypeError: .* \(.*small_port\.py, line \d+, in <lambda>\)"),
        (["math:cos", "--html", "no/folder.html"], "--html no/folder.html: there is no such folder"),
        (["math:cos", "--json", "no/folder.json"], "--json no/folder.json: there is no such folder"),
    ],
)
def test_bad_input_is_one_line(arguments, message, run):
    assert_one_line(run("twincheck", *arguments), message)


def test_the_pass_that_runs_is_shown():
    shown = []
    side = small_port.jax_side()
    run = _shown(side.run, side.framework, shown.append)
    run("float32")
    run("float64", None, lambda outputs: outputs)
    assert shown == ["flax.nnx, forward in float32", "flax.nnx, forward and backward in float64"]


def test_a_file_that_does_not_parse_is_one_line(run, tmp_path):
    (tmp_path / "port.py").write_text("def sides(:\n")
    assert_one_line(run("twincheck", "port.py:sides"), "SyntaxError: invalid syntax")
