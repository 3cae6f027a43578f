"""Damaged, lying and hostile files: each is read, or refused in one line, at once and within little memory."""

import gzip
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from warm import python

import mlp_compare.report.__main__ as report
from fuzz.targets import TARGETS
from mlp_compare.report.page import render
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import Config
from mlp_workload.data.idx import read_idx
from mlp_workload.errors import LONGEST, UserError
from mlp_workload.events import TrainLosses
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.visdom.picture import Picture
from mlp_workload.visdom.windows import Drawing
from twincheck.trace import FORMAT, Trace

some_or_many = pytest.mark.parametrize(
    "examples", [25, pytest.param(200, marks=pytest.mark.long("many examples of each target"))]
)
DEEP = b"[" * 100_000

each_target = pytest.mark.parametrize("name", TARGETS)


def hold(name: str, content: bytes) -> UserError | None:
    with TemporaryDirectory() as folder:
        return TARGETS[name].hold(content, Path(folder))


@each_target
def test_what_the_mutations_begin_with_is_whole(name):
    for seed in TARGETS[name].seeds:
        assert hold(name, seed) is None


@st.composite
def damaged(draw, whole):
    """`whole` with up to three bytes, runs of bytes or ends changed."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 8)))
        match draw(st.sampled_from(["put", "cut", "repeat", "bit"])):
            case "put":
                content[start:end] = draw(st.binary(max_size=8))
            case "cut":
                del content[start:]
            case "repeat":
                content[end:end] = content[start:end]
            case "bit" if start < len(content):
                content[start] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


@some_or_many
@each_target
def test_damaged_bytes(name, examples):
    @settings(max_examples=examples)
    @given(st.sampled_from(TARGETS[name].seeds).flatmap(damaged))
    def check(content):
        hold(name, content)

    check()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from([2**31, 2**53 + 1, 2**63, 2**64, 10**400, -1, "\ud800", "\x1b[2J\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def json_spans(content):
    """Where JSON objects and lists stand in a seed: behind its first byte, or between zero bytes and line ends."""
    spans = [(1, len(content)), *(match.span() for match in re.finditer(rb"[^\0-\2\n]+", content))]
    for start, end in spans:
        try:
            found = json.loads(content[start:end])
        except ValueError:
            continue
        if isinstance(found, dict | list):
            yield start, end, found


def places(tree, above=()):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


@st.composite
def lying(draw, whole):
    """`whole` with one value in its JSON another one, or left out."""
    start, end, tree = draw(st.sampled_from(list(json_spans(whole))))
    *above, key = draw(st.sampled_from(list(places(tree)) or [(0,)]))
    inner = tree
    for step in above:
        inner = inner[step]
    if draw(st.integers(0, 4)) == 0 and isinstance(inner, dict):
        del inner[key]
    elif isinstance(inner, dict) or key < len(inner):
        inner[key] = draw(anything)
    return whole[:start] + json.dumps(tree).encode() + whole[end:]


JSON_SEEDS = {name: [seed for seed in target.seeds if any(json_spans(seed))] for name, target in TARGETS.items()}


@some_or_many
@pytest.mark.parametrize("name", [name for name, seeds in JSON_SEEDS.items() if seeds])
def test_lying_json(name, examples):
    @settings(max_examples=examples)
    @given(st.sampled_from(JSON_SEEDS[name]).flatmap(lying))
    def check(content):
        hold(name, content)

    check()


sizes = st.integers(0, 6) | st.integers(0, 2**32 - 1) | st.sampled_from([2**16, 2**31, 2**32 - 1])


@some_or_many
def test_lying_idx_headers(examples):
    @settings(max_examples=examples)
    @given(st.integers(0, 1), st.sampled_from([1, 3]), st.data(), st.binary(max_size=200))
    def check(way, ndim, data, rest):
        shape = data.draw(st.lists(sizes, min_size=ndim, max_size=ndim))
        hold("idx", bytes([way]) + struct.pack(f">HBB{ndim}I", 0, 8, ndim, *shape) + rest)

    check()


@some_or_many
def test_any_arguments(examples):
    words = st.sampled_from([*TARGETS["arguments"].words, "1", "-1", ""])

    @settings(max_examples=examples)
    @given(st.lists(words | st.text(max_size=5), max_size=6))
    def check(arguments):
        hold("arguments", "\0".join(arguments).encode(errors="replace"))

    check()


def about(**lies):
    """What a checkpoint says of itself, of which its digest is right."""
    whole = json.loads(TARGETS["checkpoint"].seeds[0][1:])
    return b"\2" + json.dumps(whole | lies).encode()


def header(name, tensors, metadata=None):
    """A file of these tensors' descriptions, without numbers."""
    return name, b"\1" + json.dumps(tensors | ({"__metadata__": metadata} if metadata else {})).encode()


def config(**lies):
    return b"\0" + json.dumps(json.loads(Config().to_json()) | lies).encode()


def event(number, **lies):
    """A run's events, of one of which not all is true."""
    lines = TARGETS["events"].seeds[0].splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | lies).encode()
    return b"\n".join([*lines, b""])


STARTED, TRAINED, EVALUATED, WARNED, FINISHED = 0, 1, 2, 5, 6
EMPTY = {"dtype": "F32", "data_offsets": [0, 0]}
FOUND = [
    ("idx", bytes([0]) + struct.pack(">HBB3I", 0, 8, 3, 0, 2**32 - 1, 2**32 - 1)),
    header("safetensors", {"a": EMPTY | {"shape": [0] + [1] * 70}}),
    header("safetensors", {"a": EMPTY | {"shape": [0, 2**62, 1]}}),
    ("trace", b"\2" + FORMAT.encode() + b"\n" + DEEP + b"\n{}"),
    ("trace", b"\2" + FORMAT.encode() + b'\n["loss", "inputs"]\n' + DEEP),
    ("trace", b"\2" + b"\x1b[2J" * LONGEST + b"\n[]\n{}"),
    *(("checkpoint", about(**lie)) for lie in (
        {"config": 3}, {"framework": None}, {"dataset_digest": []}, {"step": "3"}, {"step": 2}, {"epoch": 0},
        {"offset": 3.0}, {"seconds": float("inf")}, {"seconds": 10**400}, {"seconds": "soon"}, {"format": 10**400},
    )),
    ("config", b"\0" + DEEP),
    ("config", b"\1" + DEEP),
    ("config", b"\1\xff"),
    *(("config", b"\0" + text) for text in (b"", b"[]", b"3", b"{}", b'"text"', b"null", b"1" * 5000)),
    *(("config", config(**lie)) for lie in (
        {"dataset": 3}, {"dataset": None}, {"hidden": "12"}, {"hidden": 5}, {"hidden": [1.5]}, {"hidden": [True]},
        {"nesterov": "yes"}, {"learning_rate": "fast"}, {"epochs": True}, {"epochs": None}, {"run_dir": 3},
        {"pixel_std": []}, {"dtype": []}, {"what": 1},
    )),
    ("events", DEEP + b"\n"),
    ("events", event(STARTED, config={"dataset": 3})),
    ("events", event(STARTED, config=json.loads(Config().to_json()) | {"dataset": 3})),
    ("events", event(STARTED, framework=None)),
    ("events", event(STARTED, dataset_digest=None)),
    *(("events", event(TRAINED, **lie)) for lie in (
        {"losses": [10**400]}, {"losses": []}, {"losses": [[1], [2]]}, {"losses": "1.5"}, {"losses": {}},
        {"first_step": "x"}, {"first_step": 10**400}, {"epoch": None}, {"labels_digest": 1}, {"seconds": "long"},
    )),
    *(("events", event(EVALUATED, **lie)) for lie in (
        {"test_examples": 0}, {"test_correct": 10_001}, {"test_loss": "small"}, {"step": -1},
        {"mistakes": {"examples": 5, "predictions": []}}, {"mistakes": {"examples": [1], "predictions": []}},
        {"mistakes": {"examples": [10_000], "predictions": [1]}},
        {"mistakes": {"examples": [1], "predictions": [2**40]}},
        {"mistakes": {"examples": [-1], "predictions": [1]}}, {"mistakes": {"examples": [1], "predictions": [-1]}},
    )),
    ("events", event(WARNED, message=3)),
    ("events", event(FINISHED, summary=[])),
    ("events", event(FINISHED, event="x" * 10 * LONGEST)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), FOUND, ids=[f"{name}-{i}" for i, (name, _) in enumerate(FOUND)])
def test_what_was_found_before_is_refused(name, content):
    assert hold(name, content) is not None


CEILING = """
import resource, sys
from pathlib import Path

from mlp_workload.data.idx import read_idx
from mlp_workload.errors import UserError
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.weights import read_safetensors

kind, path, room = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + room, mapped + room))
try:
    if kind == "idx":
        read_idx(path, 3)
    elif kind == "safetensors":
        read_safetensors(path, "safetensors file")
    else:
        RecordedRun.load(path.parent)
except UserError as error:
    print(error)
"""
MIB = 2**20


def bomb(promised):
    """Images of `promised` bytes, and 2 GiB + 1 MiB of zeros for them, gzip within gzip's own largest ratio."""
    shape = (promised // MIB, 1024, 1024)
    zeros = gzip.compress(bytes(64 * MIB), 1, mtime=0)
    return gzip.compress(struct.pack(">HBB3I", 0, 8, 3, *shape), mtime=0) + 32 * zeros + gzip.compress(bytes(MIB))


def large_header(size, **tensor):
    text = json.dumps({"a": {"dtype": "U8", "shape": [2**40], "data_offsets": [0, 2**40]} | tensor}).encode()
    return struct.pack("<Q", size or len(text)) + text


HUGE = struct.pack(">HBB3I", 0, 8, 3, 2**20, 2**10, 2**10)


@pytest.mark.skipif(sys.platform != "linux", reason="the ceiling is Linux's")
@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("idx", lambda: HUGE + bytes(100), "promises .* = 1099511627776 bytes, more than the file can hold"),
        ("idx", lambda: gzip.compress(HUGE + bytes(100)), "= 1099511627776 bytes, more than the file can hold"),
        ("idx", lambda: bomb(2049 * MIB), "= 2148532224 bytes, more than 2147483648: unpack it first"),
        ("idx", lambda: bomb(MIB), "= 1048576 bytes, the file holds more"),
        ("idx", lambda: bomb(1024 * MIB), "too large for the memory"),
        ("safetensors", lambda: large_header(0), "not a readable"),
        ("safetensors", lambda: large_header(2**40), "not a readable"),
        ("safetensors", lambda: large_header(2**63), "not a readable"),
        ("safetensors", lambda: large_header(0, shape=[0, 2**40], data_offsets=[0, 0]), ""),
        ("events", lambda: DEEP * 10 + b"\n", "line 1 is not an event"),
        ("events", lambda: event(EVALUATED, mistakes={"examples": [1], "predictions": [2**60]}), "line 3"),
    ],
)
def test_nothing_is_allocated_by_the_word_of_a_file(kind, content, words, tmp_path):
    """Within 96 MiB beside what the imports take, and seconds."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(content())
    process = subprocess.run(
        [python(), "-c", CEILING, kind, str(path), str(96 * MIB)],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert re.search(words, process.stdout)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    for name in ("train-images-idx3-ubyte", "events.jsonl", "config.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="not a file"):
        read_idx(tmp_path / "train-images-idx3-ubyte", 3)
    with pytest.raises(UserError, match="not a file"):
        RecordedRun.load(tmp_path)
    with pytest.raises(UserError, match=r"config\.json: not a file but a named pipe"):
        parse_config(["--resume", str(tmp_path)], TrainingOptions)


def test_names_that_the_system_refuses(tmp_path):
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(UserError):
            RecordedRun.load(tmp_path / name)
        with pytest.raises(UserError):
            Trace.load(tmp_path / name)
        with pytest.raises(UserError):
            parse_config(["--resume", name], TrainingOptions)


DRAWN = pytest.mark.long("draws the whole report first, as for others here")
LOST = [
    {"quantities": 3}, pytest.param({"quantities": {"loss": 1}}, marks=DRAWN),
    {"cells": [1]}, pytest.param({"cells": {"a": 1}, "sides": 3, "epochs": []}, marks=DRAWN),
    {"kind": "benchmark"}, {"kind": "benchmark", "format": 1},
]  # fmt: skip


@pytest.mark.parametrize("result", LOST, ids=json.dumps)
def test_results_that_no_command_wrote_are_refused(result, tmp_path):
    (tmp_path / "events.jsonl").write_bytes(TARGETS["events"].seeds[1])
    (tmp_path / "result.json").write_text(json.dumps(result))
    output = tmp_path / "report.html"
    with pytest.raises(UserError, match=r"result\.json|--results"):
        report.run(report.Report(runs=(tmp_path,), results=(tmp_path / "result.json",), output=output))
    assert not output.exists()


def test_facts_that_a_report_needs_are_named(tmp_path):
    for fact in ("framework_version", "device", "environment"):
        (tmp_path / "events.jsonl").write_bytes(event(STARTED, **{fact: None}))
        with pytest.raises(UserError, match=f"its events do not say its {fact.replace('_', ' ')}"):
            render([RecordedRun.load(tmp_path)], [])
    (tmp_path / "events.jsonl").write_bytes(event(FINISHED, summary={"compile_seconds": []}))
    with pytest.raises(UserError, match="its summary does not say how long it took"):
        render([RecordedRun.load(tmp_path)], [])


@pytest.mark.parametrize(
    "answer",
    ["", "3", "[]", "{}", '{"train_loss": []}', '{"train_loss": {"content": {"data": [1]}}}',
     '{"train_loss": {"content": {"data": [{"name": "1", "x": 3}]}}}', DEEP.decode()],
)  # fmt: skip
def test_a_visdom_server_that_answers_nonsense_holds_nothing(answer):
    picture = Picture(None)
    picture.take(TrainLosses(1, 1, np.ones(3), "", 1.0))
    client = SimpleNamespace(get_window_data=lambda **_: answer)
    assert not Drawing(client, "a", "b", "c")._holds(picture)


def test_an_error_is_one_line_that_does_not_steer_the_terminal():
    text = str(UserError("a  b \n\t c \x1b[2J \x9b \u202e \udcff ü"))
    assert text == "a  b c \\x1b[2J \\x9b \\u202e \\udcff ü"
    long = str(UserError("a" * 10_000 + "the end"))
    assert len(long) < LONGEST
    assert long.endswith("the end")
