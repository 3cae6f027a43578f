"""Looks for contents that a reader neither reads nor refuses in one line: `python -m fuzz --help`."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from fuzz.target import Target
from fuzz.targets import TARGETS
from mlp_workload.cli.parse import Positional, run_command
from mlp_workload.environment.description import usable_cores
from mlp_workload.errors import UserError
from mlp_workload.files import clear_write_errors

PROGRAM = "python -m fuzz"
SLOWEST = 20
"""Seconds, after which a content counts as a hang."""


@dataclass(frozen=True, kw_only=True)
class Fuzz:
    """Feeds every reader of files of others what a coverage-guided fuzzer makes of contents that it takes, one on each
    core at a time.

    Exit status 1 says that a content made one crash, hang, or fail otherwise than by one clear line; then it is kept.
    """

    targets: Annotated[tuple[str, ...], Positional("TARGET")] = ()
    """Fuzzes these; by default all: idx, safetensors, checkpoint, trace, config, arguments, events."""
    seconds: int = 600
    """Fuzzes each for this many seconds."""
    findings: Path = Path("fuzz-findings")
    """Writes the contents that were found to this folder."""

    def __post_init__(self) -> None:
        for name in self.targets:
            if name not in TARGETS:
                raise UserError(f"expected some of {', '.join(TARGETS)}, got {name}")
        if self.seconds < 1:
            raise UserError(f"--seconds must be at least 1, got {self.seconds}")


def main() -> None:
    run_command(PROGRAM, Fuzz, run)


def run(options: Fuzz) -> bool:
    """Returns whether nothing was found."""
    if find_spec("atheris") is None:
        raise UserError("atheris is not installed: make fuzz, or pip install '.[fuzz]' in the project's folder; "
                        "it is there for Linux and Python 3.11 to 3.13")  # fmt: skip
    findings = options.findings.absolute()
    with clear_write_errors(findings):
        findings.mkdir(parents=True, exist_ok=True)
    names = options.targets or tuple(TARGETS)
    with ThreadPoolExecutor(usable_cores()) as at_once:
        return all(list(at_once.map(lambda name: fuzz(name, TARGETS[name], options.seconds, findings), names)))


def fuzz(name: str, target: Target, seconds: int, findings: Path) -> bool:
    """Whether nothing was found; what was is in `findings`, and why on standard error."""
    with TemporaryDirectory() as place:
        corpus, words, log = Path(place, "corpus"), Path(place, "words"), Path(place, "log")
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
        flags = {
            "max_total_time": seconds,
            "timeout": SLOWEST,
            "rss_limit_mb": 2048,
            "artifact_prefix": f"{findings}/{name}-",
            "print_final_stats": 1,
        } | ({"dict": words} if target.words else {})
        command = [sys.executable, "-m", "fuzz.loop", name, *(f"-{flag}={value}" for flag, value in flags.items())]
        root = str(Path(__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        with log.open("wb") as output:
            status = subprocess.run(
                [*command, str(corpus)], cwd=place, env=environment, stdout=output, stderr=output
            ).returncode
        text = log.read_text(errors="replace")
    seen = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)
    executions = re.findall(r"stat::number_of_executed_units: (\d+)", text)
    if status == 0 and seen and executions:
        blocks, features, contents = map(int, seen[-1])
        reached = f"{blocks} branches reached, {features} features, {contents} contents kept"
        print(f"{name}: {int(executions[-1]):,} contents in {seconds} s, {reached}: nothing found", flush=True)
        return True
    print(f"{name}: ended with status {status}; what was found is in {findings}", flush=True)
    print(text[-10_000:], file=sys.stderr, flush=True)
    return False


def _escaped(word: str) -> str:
    """Returns the word as libFuzzer's dictionaries write it."""
    return re.sub(r'[\\"]', lambda match: "\\" + match[0], word)


if __name__ == "__main__":
    main()
