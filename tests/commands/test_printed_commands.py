"""Commands that are printed can be pasted into a shell, whatever the folders are called."""

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT, write_idx_folder

import reference_torch.train
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import PRESETS
from mlp_workload.doctor import machine
from mlp_workload.errors import UserError, one_line
from mlp_workload.files import shell_quoted
from mlp_workload.predict.trained import Trained
from mlp_workload.run.checkpointing import Checkpointer
from mlp_workload.run.signals import Stopped
from mlp_workload.sinks.visdom import Visdom
from mlp_workload.visdom.server import VisdomServer

ODD = "my runs (1)/it's/x"


@pytest.mark.parametrize(
    "path",
    [ODD, "plain/run-1", '$HOME `id` "\\', "-rf", "~", "~x/y", "日本", "tab\tnew\nline", os.fsdecode(b"\xff'\\")],
)
def test_a_path_reaches_a_command_as_it_is(path, tmp_path, monkeypatch):
    """Through the one line of an error, too."""
    monkeypatch.chdir(tmp_path)
    command = one_line(f"printf %s {shell_quoted(Path(path))}")
    got = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    assert Path(os.fsdecode(got)).absolute() == Path(path).absolute()
    assert not got.startswith((b"-", b"~"))


def test_a_stopped_run_goes_on_by_what_is_printed(tmp_path, digits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_idx_folder(tmp_path / "data", digits)

    def saved(checkpointer, checkpoint, save=Checkpointer._save):
        save(checkpointer, checkpoint)
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # else it was sent
            os.kill(os.getpid(), signal.SIGTERM)

    flags = ["--dataset", "idx:data", "--epochs", "1", "--visdom", "off", "--checkpoint-every", "2"]
    options = parse_config([*flags, "--batch-size", "20", "--run-dir", ODD], TrainingOptions)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "_save", saved)
        with pytest.raises(Stopped) as stopped:
            reference_torch.train.start(options)
    printed = re.search(r"--resume .*?(?= goes on)", str(stopped.value))[0]
    reference_torch.train.start(parse_config([*shlex.split(printed), "--visdom", "off"], TrainingOptions))
    assert Path(ODD, "summary.json").exists()


def unfinished(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        Trained.load(folder)
    return str(refused.value)


def no_visdom(folder: Path, digits, capsys) -> str:
    server = VisdomServer(port=9)
    Visdom(server, PRESETS["leaky"], digits, folder, "jax", quiet=False)._warn("no server")
    return capsys.readouterr().err


def test_every_hint_is_quoted(tmp_path, digits, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path(ODD)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(PRESETS["leaky"].to_json())
    (folder / ".git").mkdir()
    monkeypatch.setattr(machine, "_CHECKOUT", folder)
    assert ["--resume", ODD] in pairs(unfinished(folder))
    assert ["--replay", ODD] in pairs(no_visdom(folder, digits, capsys))
    assert shlex.split(machine._mnist_fix(folder / "a b")) == ["git", "-C", ODD, "checkout", "a b"]


def pairs(said: str) -> list[list[str]]:
    words = shlex.split(said.split(": ", 1)[1].split("; ", 1)[1])
    return [words[i : i + 2] for i in range(len(words))]


def test_no_hint_of_a_command_has_a_path_as_it_is():
    """What only names the flag of an error has a colon behind the path."""
    for package in ("jax_mlp", "mlp_compare", "mlp_workload", "reference_torch"):
        for file in (ROOT / package).rglob("*.py"):
            bare = re.findall(r"(?:--resume|--replay|git -C) \{(?!shell_quoted)[^}]*\}(?!:).*", file.read_text())
            assert bare == [], file
