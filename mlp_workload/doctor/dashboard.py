"""Visdom, which shows runs while they go, and its server."""

import importlib.util
from collections.abc import Iterator

from mlp_workload.cli.parse import INSTALL
from mlp_workload.doctor.answer import Answer
from mlp_workload.doctor.finding import Finding
from mlp_workload.doctor.packages import release
from mlp_workload.doctor.probe import Facts
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.visdom.server import PORT, NothingThere, NotVisdom, ServerError, Unreachable

_START = "python -m mlp_workload.dashboard"


def findings() -> Iterator[Finding]:
    """Of a Visdom that is installed, whether its page is served, by a real server; then, whether one is there."""
    if importlib.util.find_spec("visdom") is None:
        yield Finding("note", "Visdom", "not installed, so no live curves", INSTALL["visdom"])
        return
    yield from page(Answer.of("mlp_workload.doctor.visdom_probe"))
    yield server()


def page(answer: Answer) -> Iterator[Finding]:
    """Of what `visdom_probe` answered."""
    facts = answer.facts
    versions = " with tornado ".join(facts.get("versions", {}).values())
    if answer.failure:
        yield Finding("wrong", "Visdom", f"{versions} {answer.failure}".strip(), INSTALL["visdom"])
    elif facts["status"] != 200:
        seen = f"{versions} answers {facts['status']} {facts['reason']} instead of its page"
        yield Finding("wrong", "Visdom", seen, _mend(facts))
    else:
        yield Finding("ok", "Visdom", f"{versions} serves its page")
        if lacks := facts["lacks"]:
            seen = f"{lacks} of the files that its page is made of are still to be fetched"
            by = f", started by a user who may write {closed}" if (closed := facts.get("closed")) else ""
            yield Finding("note", "Visdom", seen, f"{_START}{by}, which fetches them")


def _mend(facts: Facts) -> str:
    """From 6.6 on tornado refuses a file outside the static folder, which Visdom's page names."""
    new = release(facts["versions"]["tornado"]) >= (6, 6)
    return "pip install 'tornado<6.6'" if new else "pip install --force-reinstall visdom"


def server() -> Finding:
    """Of the server that a trainer without flags would look for."""
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
        return Finding("note", "Visdom server", f"{reason}; runs begin all the same", fix)
    return Finding("ok", "Visdom server", f"one answers at {wanted.address}")
