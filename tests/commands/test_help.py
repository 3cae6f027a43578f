"""The commands' flags: their groups and sentences in --help, old names, and errors."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

import experiments.scaling.__main__ as scaling
import mlp_compare.accuracy.__main__ as accuracy
import mlp_compare.bench.__main__ as bench_command
import mlp_compare.bench.options as bench
import mlp_compare.gpu_check.__main__ as gpu_check
import mlp_compare.parity.__main__ as parity
import mlp_compare.report.__main__ as report
import twincheck.__main__ as twincheck_command
from fuzz.__main__ import Fuzz
from jax_mlp.train import Options
from mlp_workload import dashboard, export_onnx
from mlp_workload.cli.parse import Positional, option_fields, parse
from mlp_workload.cli.trainer import GROUPS, TrainingOptions, parse_config
from mlp_workload.doctor import examination
from mlp_workload.errors import UserError
from mlp_workload.predict import command
from reference_torch import convert, tutorial

TRAINERS = (TrainingOptions, Options)
COMMANDS = (
    accuracy.Accuracy, bench.Bench, gpu_check.GpuCheck, parity.Parity, report.Report, scaling.Options,
    dashboard.Dashboard, export_onnx.Export, command.Predict, examination.Doctor, convert.Conversion,
    tutorial.Program, twincheck_command.Twincheck, Fuzz,
)  # fmt: skip


@pytest.fixture
def text_of(capsys, monkeypatch):
    """The text of --help in a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")

    def text_of(kind, parse=parse, **options):
        with pytest.raises(SystemExit) as stop:
            parse(["--help"], kind, prog="program", **options)
        assert not stop.value.code
        return capsys.readouterr().out

    return text_of


def sections(text):
    """The lines of each group, by its title."""
    parts = re.split(r"^(\S.*):\n(?=  )", text, flags=re.M)[1:]
    return dict(zip(parts[::2], map(str.rstrip, parts[1::2]), strict=True))


def entries(section):
    """Each flag's entry in one line."""
    return [re.sub(r"\s+", " ", entry).strip() for entry in re.split(r"^  (?=\S)", section, flags=re.M)[1:]]


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_trainers_flags_are_in_groups(kind, text_of):
    groups = sections(text_of(kind, parse_config))
    assert list(groups) == ["options", *GROUPS]
    assert entries(groups.pop("options")) == ["-h, --help Shows this text."]
    flags = {title: re.findall(r"^  --([\w-]+)", section, re.M) for title, section in groups.items()}
    for title, names in GROUPS.items():
        expected = {name.replace("_", "-") for name in names}
        if kind is TrainingOptions:
            expected -= {"coordinator", "processes", "process"}
        assert sorted(flags[title]) == sorted(expected), title
        assert groups[title].count("\n") < 60
        assert max(map(len, groups[title].splitlines())) <= 100


@pytest.mark.parametrize("kind", [*TRAINERS, *COMMANDS])
def test_each_flag_has_a_sentence_and_its_default(kind, text_of):
    text = text_of(kind, parse_config if kind in TRAINERS else parse)
    shown = [entry for section in sections(text).values() for entry in entries(section)]
    assert len(shown) == 1 + len(list(option_fields(kind)))
    for entry in shown:
        assert re.search(r"\.( \(default: .+\))?$", entry), entry
    defaults = [field.default for field, _ in option_fields(kind) if isinstance(field.default, (int, float, str))]
    assert sum("(default: " in entry for entry in shown) >= len(defaults)


def test_an_old_name_of_a_flag_works_and_is_not_shown(text_of):
    for flag in ("--self-test", "--teeth"):
        options = parse_config([flag, "another seed"], parity.Parity, without=parity.WITHOUT, aliases=parity.ALIASES)
        assert options.self_test == ("another seed",)
    text = text_of(parity.Parity, parse_config, without=parity.WITHOUT, aliases=parity.ALIASES)
    assert "--self-test" in text
    assert not re.search("--(teeth|epochs|run-dir)", text)
    assert parse(["--rungs", "jax"], bench.Bench, aliases=bench_command.ALIASES).variants == ("jax",)
    assert not parse(["--no-many"], bench.Bench, aliases=bench_command.ALIASES).seeds
    assert not re.search("--(no-)?(rungs|many)", text_of(bench.Bench, parse, aliases=bench_command.ALIASES))


def test_the_tutorials_programs_have_their_old_name_too(run):
    process = run("reference_torch.article", "module2")
    assert (process.returncode, process.stderr.count("\n")) == (2, 1)
    assert "module2" in process.stderr


@dataclass(frozen=True, kw_only=True)
class Example:
    """Does something.

    And more.
    """

    inputs: Annotated[tuple[Path, ...], Positional("IN")]
    """Reads these."""
    new_name: bool | None = None
    """Turns 100 % of it on."""
    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""


def example(*arguments):
    return parse(arguments, Example, aliases={"--old": "--new-name"})


def test_arguments_stand_before_behind_and_between_flags():
    expected = Example(inputs=(Path("a"), Path("b")), new_name=False, sizes=(3, -4))
    for arguments in ("a b --no-new-name --sizes 3 -4", "--sizes 3 -4 --no-new-name a b", "a --no-old b --sizes 3 -4"):
        assert example(*arguments.split()) == expected
    assert example("a", "--new_name", "--sizes").sizes == ()
    assert example("a", "--new_name").new_name is True


def test_a_percent_sign_and_paragraphs(text_of):
    text = text_of(Example)
    assert re.match(r"usage: program .* IN \[IN \.\.\.\]\n\nDoes something\.\n\n", text, re.S)
    assert "Turns 100 % of it on." in text
    assert text.endswith("\nAnd more.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: IN"),
        (["a", "--old=3"], "--old/--no-old: ignored explicit argument '3'"),
        (["a", "--size", "3"], "unrecognized arguments: --size 3"),
        (["--sizes", "1", "x", "--", "a"], "--sizes: invalid int value: 'x'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(UserError) as error:
        example(*arguments)
    assert str(error.value) == f"{message} (--help lists the flags)"


def test_defaults_are_shown_as_they_are_typed(text_of):
    text = " ".join(text_of(bench.Bench).split())
    for sentence, default in (
        ("in two minutes.", "off"),
        ("as they are typed.", "on"),
        ("Widths of the hidden layers.", "200 200"),
        ("Examples per step.", "200"),
    ):
        assert f"{sentence} (default: {default})" in text
    assert "this new SVG file. (default" not in text
