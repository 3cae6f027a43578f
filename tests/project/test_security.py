"""What SECURITY.md claims and a test can hold: no code out of data, no shell, no way out of a folder."""

import ast
import json
import re

import pytest
from helpers import ROOT, recorded

from mlp_compare.report.page import render
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import Config
from mlp_workload.errors import UserError
from mlp_workload.visdom.windows import comparison_name, environment_name

PACKAGES = ("mlp_workload", "jax_mlp", "reference_torch", "twincheck", "mlp_compare", "examples", "fuzz")
CODE_IN_DATA = {"cloudpickle", "code", "dill", "joblib", "marshal", "pickle", "runpy", "shelve", "yaml"}
CALLED_BY_NAME = {"__import__", "eval", "exec"}
CALLED_OF_A_MODULE = {"os.popen", "os.system", "subprocess.getoutput", "subprocess.getstatusoutput"}


def dangers(source):
    """What in Python `source` could make code, or a shell's command, of data."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from CODE_IN_DATA & {alias.name.partition(".")[0] for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                yield from CODE_IN_DATA & {module.partition(".")[0]}
            case ast.Call():
                called, flags = ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}
                if called in CALLED_BY_NAME | CALLED_OF_A_MODULE or called.endswith(".extractall"):
                    yield called
                if flags.get("shell", "False") != "False" or flags.get("allow_pickle", "False") != "False":
                    yield called
                if called == "torch.load" and flags.get("weights_only") != "True":
                    yield called


def test_no_module_makes_code_of_data_or_asks_a_shell():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 80
    assert {(path.name, danger) for path in files for danger in dangers(path.read_text())} == set()


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import load", "import yaml.loader", "eval(text)", "exec(text)", "os.system(text)",
        "subprocess.run(text, shell=True)", "torch.load(path)", "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)", "tarfile.open(path).extractall()",
    ],
)  # fmt: skip
def test_that_test_bites(line):
    assert list(dangers(f"def f():\n    {line}"))
    assert not list(dangers("model.eval(); re.compile(''); torch.load(path, weights_only=True); np.load(path)"))


def run_folder(path):
    path.mkdir()
    (path / "config.json").write_text(Config().to_json())
    return path


@pytest.mark.parametrize("name", ["events.jsonl", ".room-for-weights", "checkpoints", "tensorboard"])
def test_a_run_whose_folder_leads_out_of_it_is_not_resumed(name, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    folder = run_folder(tmp_path / "run")
    (folder / name).symlink_to(tmp_path / "mine" if name in ("checkpoints", "tensorboard") else tmp_path / "mine/file")
    with pytest.raises(UserError, match=f"--resume .*run: {re.escape(name)} leads out of the folder"):
        parse_config(["--resume", str(folder)], TrainingOptions)


def test_a_link_to_itself_is_one_error(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"--resume .*run: "):
        parse_config(["--resume", str(folder)], TrainingOptions)


def test_a_run_in_a_folder_that_is_a_link_is_resumed_where_it_is(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "latest").symlink_to("config.json")
    (tmp_path / "link").symlink_to(folder)
    assert parse_config(["--resume", str(tmp_path / "link")], TrainingOptions).config.run_dir == tmp_path / "link"


def test_a_configuration_of_others_names_no_other_folder(tmp_path):
    folder = run_folder(tmp_path / "run")
    lies = json.loads(Config().to_json()) | {"run_dir": str(tmp_path / "elsewhere")}
    (folder / "config.json").write_text(json.dumps(lies))
    assert parse_config(["--resume", str(folder)], TrainingOptions).config.run_dir == folder


def test_names_of_others_stay_names(tmp_path):
    for name in (
        environment_name(tmp_path / "../../a b"),
        comparison_name(Config(dataset="idx:../../x/\0<y>"), "../\0"),
    ):
        assert re.fullmatch(r"[\w.-]+", name)


def test_the_report_takes_nothing_for_markup_and_loads_nothing():
    tag = "<script>alert(1)</script>"
    page = render([recorded(f"runs/{tag}", dataset=f"idx:{tag}", warnings=[tag], digests=(tag, tag))], [])
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_the_report_of_a_path_that_is_no_text_can_be_written():
    """Linux allows any bytes in a name."""
    assert r"a\udcffb" in render([recorded("runs/a\udcffb")], []).encode().decode()


def test_a_copy_of_the_policy_names_files_that_are_there():
    text = (ROOT / "SECURITY.md").read_text()
    for path in re.findall(r"`([a-z_]+/[\w/.]+\.py)`", text):
        assert (ROOT / path).exists(), path
