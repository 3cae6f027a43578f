"""The description of a run, as its folder has it."""

from dataclasses import fields
from pathlib import Path

from fuzz.target import Target
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import PRESETS, Config


def read(content: bytes, folder: Path) -> None:
    """A content whose first byte is odd is resumed from, which takes longer; any other is read as it is."""
    text = content[1:]
    if content[:1] and content[0] % 2:
        (folder / "config.json").write_bytes(text)
        assert parse_config(["--resume", str(folder)], TrainingOptions).config.run_dir == folder
        return
    config = Config.from_json(text.decode(errors="replace"))
    assert Config.from_json(config.to_json()) == config


TARGET = Target(
    read,
    tuple(way + config.to_json().encode() for way in (b"\0", b"\1") for config in PRESETS.values()),
    (*(field.name for field in fields(Config)), "null", "true", "-1", "1e999", "NaN", "[]", "{}", '"0"',
     "idx:", "tfds:", "\\ud800", "\\u0000", "float64"),
)  # fmt: skip
