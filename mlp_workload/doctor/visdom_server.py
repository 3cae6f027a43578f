"""Checks Visdom and its server."""

import importlib.util
from collections.abc import Iterator

from mlp_workload.cli.parse import INSTALL
from mlp_workload.doctor.answer import Answer
from mlp_workload.doctor.finding import Finding
from mlp_workload.doctor.packages import release
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.visdom.server import PORT, NothingThere, NotVisdom, ServerError, Unreachable

_START = "python -m mlp_workload.dashboard"


def findings() -> Iterator[Finding]:
    """Yields whether a real server serves the installed Visdom's page, and whether a server is running."""
    if importlib.util.find_spec("visdom") is None:
        yield Finding("note", "Visdom", "not installed, so no live curves", INSTALL["visdom"])
        return
    yield from page(Answer.of("mlp_workload.doctor.visdom_probe"))
    yield server()


def page(answer: Answer) -> Iterator[Finding]:
    facts = answer.facts
    versions = " with tornado ".join(facts.get("versions", {}).values())
    if answer.failure:
        yield Finding("wrong", "Visdom", f"{versions} {answer.failure}".strip(), INSTALL["visdom"])
    elif facts["status"] != 200:
        seen = f"{versions} answers {facts['status']} {facts['reason']} instead of its page"
        # From 6.6 on tornado refuses a file of Visdom's page outside the static folder.
        is_too_new = release(facts["versions"]["tornado"]) >= (6, 6)
        fix = "pip install 'tornado<6.6'" if is_too_new else "pip install --force-reinstall visdom"
        yield Finding("wrong", "Visdom", seen, fix)
    else:
        yield Finding("ok", "Visdom", f"{versions} serves its page")
        if lacks := facts["lacks"]:
            seen = f"{lacks} files of its page are not downloaded yet"
            by = f", started by a user who may write {closed}" if (closed := facts.get("closed")) else ""
            yield Finding("note", "Visdom", seen, f"{_START}{by}, which downloads them")


def server() -> Finding:
    """Returns whether the server answers that a trainer without flags uses."""
    wanted = OutputOptions().server
    if wanted.ignored:
        return Finding("wrong", "Visdom server", "; ".join(wanted.ignored), "correct the variable, or unset it")
    try:
        wanted.connect()
    except Unreachable as reason:
        fix = None
        if isinstance(reason, NothingThere):
            fix = _START if wanted.port == PORT else f"{_START} --port {wanted.port}"
        elif isinstance(reason, NotVisdom | ServerError):
            fix = f"stop what listens at port {wanted.port}, or name another port by VISDOM_PORT"
        return Finding("note", "Visdom server", f"{reason}; runs start without it", fix)
    return Finding("ok", "Visdom server", f"one answers at {wanted.address}")
