"""The stand-in for the interpreter in other tests answers as the interpreter does."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT
from warm import python

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}

COMMANDS = {
    "arguments": "import sys; print(sys.argv, sys.path[:2], __name__)",
    "environment": "import os; print(sorted(os.environ.items()), os.getcwd(), sorted(os.sched_getaffinity(0)))",
    "status": "raise SystemExit(7)",
    "a message as status": "raise SystemExit('why')",
    "an exception": "1 / 0",
    "a signal": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "its own handler": "import signal; print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGPIPE))",
    "standard input": "import sys; print(sys.stdin.read(), sys.stdin.encoding, sys.stdout.errors, sys.stderr.errors)",
    "the end": "import atexit, sys; atexit.register(print, 'at exit'); sys.stdout.write('no newline')",
    "a thread that goes on": "import threading; threading.Timer(0.2, print, ['late']).start()",
    "processes of its own": (
        "import multiprocessing; spawn = multiprocessing.get_context('spawn')\n"
        "process = spawn.Process(target=print, args=('child',)); process.start(); process.join()"
    ),
}


@pytest.mark.parametrize("code", COMMANDS.values(), ids=COMMANDS)
def test_a_fork_answers_as_the_interpreter(code, tmp_path):
    answers = []
    for program in (python(), sys.executable):
        process = subprocess.run(
            [program, "-c", code, "one", "two words"], cwd=tmp_path, env=ENVIRONMENT, input="typed",
            capture_output=True, text=True,
        )  # fmt: skip
        answers.append((process.returncode, process.stdout, process.stderr.replace(sys.executable, "")))
    assert answers[0] == answers[1]


def test_it_is_a_fork(tmp_path):
    code = "import sys; print('torch' in sys.modules and 'jax' in sys.modules)"
    for flags, environment, warm in (([], {}, True), (["-O"], {}, False), ([], {"JAX_PLATFORMS": "cpu"}, False)):
        command = [python(), *flags, "-c", code]
        output = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT | environment, capture_output=True, text=True)
        assert output.stdout == f"{warm}\n", output.stderr
    (tmp_path / "jax_mlp").mkdir()
    output = subprocess.run([python(), "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert output.stdout == "False\n", "a copy of the packages"


def test_a_process_that_it_spawns_is_a_fork(tmp_path):
    (tmp_path / "asks.py").write_text("import sys\n\n\ndef ask():\n    print('torch' in sys.modules)\n")
    code = (
        "import asks, multiprocessing, signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "process = multiprocessing.get_context('spawn').Process(target=asks.ask); process.start(); process.join()"
    )
    output = subprocess.run([python(), "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert output.stdout == "True\n", output.stderr


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    code = "import signal; print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)])"
    shell = ["sh", "-c", 'trap "" INT HUP; exec "$0" -c "$1"', python(), code]
    output = subprocess.run(shell, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert output.stdout.count("SIG_IGN") == 2, output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_it(number):
    code = "import time; print('here', flush=True); time.sleep(60)"
    command = [python(), "-c", code]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(30) == -number


def test_it_ends_when_its_client_is_killed():
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([python(), "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        fork = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{fork}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_closed_streams_are_none(closed, tmp_path):
    code = "import sys; open('streams', 'w').write(str([s is None for s in (sys.stdin, sys.stdout, sys.stderr)]))"
    for program in (python(), sys.executable):
        subprocess.run(["sh", "-c", f'"$0" -c "$1" {closed}', program, code], cwd=tmp_path, env=ENVIRONMENT, check=True)
        (tmp_path / "streams").rename(tmp_path / f"streams-{program == sys.executable}")
    assert (tmp_path / "streams-True").read_text() == (tmp_path / "streams-False").read_text()
