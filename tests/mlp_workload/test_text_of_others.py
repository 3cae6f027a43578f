"""Text from files and servers of others is shown in plain lines that steer no terminal."""

import io
import json

import pytest
from rich.table import Table

from mlp_compare.bench.tables import read as read_benchmark
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import Config
from mlp_workload.errors import UserError, escaped, one_line, warn
from mlp_workload.events import Warned
from mlp_workload.files import read_json
from mlp_workload.run.folder import read_config
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.sinks.console import Console, Output

STEER = "a\x1b[2J\x1b]0;title\x07\x9b1m\x00\u202eb\u2066\u200f\udcff"
SHOWN = r"a\x1b[2J\x1b]0;title\x07\x9b1m\x00\u202eb\u2066\u200f\udcff"


def test_what_steers_a_terminal_or_reorders_a_line_is_escaped():
    assert escaped(STEER) == SHOWN
    assert escaped("two\nlines\r\tend") == "two\nlines\\r\\tend"
    assert one_line(f"two \n lines\r\t{STEER}") == f"two lines {SHOWN}"
    assert escaped("ü 日本語 \u3000\xa0 é 🙂") == "ü 日本語 \u3000\xa0 é 🙂", "letters and spaces stay"
    joined = "\U0001f469\u200d\U0001f4bb \u06cc\u200c"
    assert escaped(joined) == joined


def test_warnings_are_one_such_line(capsys):
    warn(f"{STEER}\n{STEER}")
    assert capsys.readouterr().err == f"warning: {SHOWN} {SHOWN}\n"


@pytest.mark.parametrize("wrap", [False, True], ids=["plain", "in a table"])
def test_what_is_printed_has_no_control_characters(wrap):
    """Nor is it taken for markup, and a table keeps its width."""
    file = io.StringIO()
    table = Table(f"[red]{STEER}", title=STEER)
    table.add_row(STEER)
    Output(file=file, soft_wrap=False, width=120).print(table if wrap else f"[red]{STEER}")
    lines = file.getvalue().splitlines()
    assert f"[red]{SHOWN}" in file.getvalue()
    assert all(line.isprintable() for line in lines)
    assert len({len(line) for line in lines[wrap:]}) == 1


def test_help_shows_nothing_of_a_run(tmp_path, capsys):
    values = json.loads(Config().to_json()) | {"dataset": f"idx:{STEER}"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(SystemExit):
        parse_config(["--resume", str(tmp_path), "--help"], TrainingOptions)
    assert "\x1b]0;title" not in capsys.readouterr().out


def test_a_warning_about_a_class_does_not_steer_the_console(tmp_path, capsys):
    console = Console(tmp_path, quiet=False)
    console.emit(Warned(f"1 lost classes ({STEER})"))
    assert capsys.readouterr().out == f"warning: 1 lost classes ({SHOWN})\n"


DEEP = b"[" * 100_000
READERS = {
    "config.json": read_config,
    "events.jsonl": RecordedRun.load,
    "seeds.json": lambda folder: read_json(folder / "seeds.json"),
    "bench.json": lambda folder: read_benchmark(folder / "bench.json"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "reason"),
    [(DEEP, "nested too deeply"), (b'"\xff\xfe"', "not UTF-8"), (b'{"\xff": 1}', "not UTF-8")],
    ids=["deep", "no UTF-8", "no UTF-8 key"],
)
def test_a_file_that_is_no_json_has_one_plain_reason(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content + b"\n")
    with pytest.raises(UserError) as error:
        READERS[name](tmp_path)
    assert reason in str(error.value)
    assert "Error" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: values.pop("hidden"), "'hidden' is missing"),
        (lambda values: values.update({STEER: 1}), f"{STEER!r} is not a setting"),
        (lambda values: values.update(hidden=3), "a part has the wrong form"),
        (lambda values: values.update(preset=STEER), f"must be one of relu, leaky, got {SHOWN}"),
    ],
)
def test_a_configuration_of_others_is_refused_in_plain_words(change, reason, tmp_path):
    values = json.loads(Config().to_json())
    change(values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError) as error:
        read_config(tmp_path)
    assert reason.replace("'", '"') in str(error.value).replace("'", '"')
    assert str(error.value).isprintable()
