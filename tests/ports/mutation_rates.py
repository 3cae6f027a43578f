"""Measures how often a check finds and names the mutations of `mutations.py`: one at a time, or three at once.

    PYTHONPATH=. python tests/ports/mutation_rates.py [--three DRAWS] [PAIR ...]

A mutation is located if each of its paths has a place that is out, and nothing is found elsewhere: no place of the
forward pass, and no finding whose first place, which the report shows, is elsewhere. It is named if its cause is named
at each of its paths, and no cause that was not planted is named there. Only causes of the table count. Of three at once
each counts by itself, but what is found elsewhere counts against all three.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cpu_torchvision  # noqa: F401  (before timm)
import equinox as eqx
from flax import nnx
from mutations import MUTATIONS, PAIRS, Mutation, at, make_pair

import twincheck as tc
from examples.ports.pairs import JaxSide
from twincheck.causes.table import BY_NAME
from twincheck.check import Mismatch
from twincheck.report import UNKNOWN, Report

IN_ONE_PASS = [mutation for mutation in MUTATIONS if mutation.shows not in ("training", "mode")]
"""The others show in training alone, where other tests plant them, or are undone by a check, which sets the mode."""


def side(kind: str, jax: JaxSide) -> Any:
    if kind == "nnx":
        return tc.nnx(jax.model, jax.inputs, jax.call)
    if kind == "linen":
        return tc.linen(*jax.model, jax.inputs)
    return tc.equinox(jax.model, jax.inputs, jax.call) if kind == "equinox" else tc.haiku(*jax.model, jax.inputs)


def planted(mutations: Sequence[Mutation]) -> Report:
    """Returns the report of a pair with these mutations in one of its JAX models."""
    pair, kind = make_pair(mutations[0].pair), mutations[0].kind
    jax = pair.jax[kind]
    for mutation in mutations:
        jax = jax._replace(model=mutation.plant(jax.model))
    dtype = "float64" if any(mutation.shows == "float64" for mutation in mutations) else "float32"
    return tc.pair(tc.torch(pair.torch, pair.inputs), side(kind, jax)).check(dtype)


@dataclass(frozen=True)
class Outcome:
    mutation: Mutation
    located: bool
    named: bool

    @property
    def in_table(self) -> bool:
        return self.mutation.cause in BY_NAME


def judge(report: Report, mutations: Sequence[Mutation]) -> list[Outcome]:
    """Returns for each mutation whether the report locates and names it."""
    units = compared(report)
    expected = {UNKNOWN, *(cause for mutation in mutations for cause in (mutation.cause, mutation.also))}
    paths = {path for mutation in mutations for path in mutation.paths}
    shown = [finding.places[0] for finding in report.findings]
    shown += [place for place in report.out if "gradient" not in place.kind]
    elsewhere = [place for place in shown if not any(touches(place, path, units) for path in paths)]
    outcomes = []
    for mutation in mutations:
        names = {path: names_at(report, path, units) for path in mutation.paths}
        located = not elsewhere and all(names.values())
        named = all(mutation.cause in found and found <= expected for found in names.values())
        outcomes.append(Outcome(mutation, located, named))
    return outcomes


@dataclass(frozen=True)
class Units:
    """The modules that are compared as one, and those whose code is compared with that of the module around them."""

    modules: set[str]
    groups: list[list[str]]

    def code(self, path: str) -> str:
        """Returns the module in whose code a module's own is compared: itself, or one around it."""
        for members in self.groups:
            if any(is_in(member, path) or is_in(path, member) for member in members):
                names = [name.split(".") for name in members]
                shared = [n for n in range(len(names[0])) if len({tuple(name[:n]) for name in names}) == 1]
                path = ".".join(names[0][: shared[-1]])
        while path and not any(is_in(path, module) or is_in(module, path) for module in self.modules):
            path = path.rpartition(".")[0]
        return path


def compared(report: Report) -> Units:
    groups = [sorted({name.rpartition(".")[0] for name in group.jax.parameters}) for group in report.pairing.groups]
    return Units({link.jax.call.path for link in report.pairing.links}, groups)


def names_at(report: Report, path: str, units: Units) -> set[str]:
    """Returns the causes, unknown ones included, of the places that test the code of the module at `path`."""
    return {f.name for f in report.findings if any(touches(place, path, units) for place in f.places)}


def touches(place: Mismatch, path: str, units: Units) -> bool:
    """Tells whether a place tests the code of the module at `path`, not that of the modules that it calls.

    The code between the modules a and b is that of the innermost module around both, and of those further inside that
    are left after a or entered before b.
    """
    if place.kind == "gradient of parameter":
        owner = place.after.rpartition(".")[0]
        around = [module for module in units.modules if is_in(owner, module)]
        return is_in(path, max(around, key=len)) if around else units.code(path) == units.code(owner)
    before, after = (name.partition(" (call")[0] for name in (place.before, place.after))
    if "module" in place.kind:
        return is_in(path, after)
    ends = before.split("."), after.split(".")
    common = 0
    while common < min(map(len, ends)) - 1 and ends[0][common] == ends[1][common]:
        common += 1
    return units.code(path) in {".".join(end[:count]) for end in ends for count in range(common, len(end))}


def is_in(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def draws(count: int, pairs: Sequence[str], seed: int = 0) -> Iterator[tuple[Mutation, ...]]:
    """Yields draws of three mutations of one model, in modules that are not the same and not within each other's."""
    generator = random.Random(seed)
    models: dict[tuple[str, str], list[Mutation]] = {}
    for mutation in IN_ONE_PASS:
        if mutation.pair in pairs and mutation.kind in ("nnx", "equinox") and mutation.shows != "float64":
            models.setdefault((mutation.pair, mutation.kind), []).append(mutation)
    candidates = [mutations for mutations in models.values() if len(mutations) >= 3]
    while count:
        three = tuple(generator.sample(generator.choices(candidates, [len(m) for m in candidates])[0], 3))
        if all(apart(a, b) for a in three for b in three if a is not b) and all_in_effect(three):
            count -= 1
            yield three


def apart(a: Mutation, b: Mutation) -> bool:
    return not any(p == q or (p and is_in(q, p)) for p in a.paths for q in b.paths)


def all_in_effect(mutations: Sequence[Mutation]) -> bool:
    """Tells whether none takes away the module of another."""
    model = make_pair(mutations[0].pair).jax[mutations[0].kind].model
    for mutation in mutations:
        model = mutation.plant(model)
    root = model[0] if isinstance(model, tuple) else model
    return all(isinstance(at(root, path), nnx.Module | eqx.Module) for m in mutations for path in m.paths)


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns the counts by pair as Markdown."""
    lines = ["| pair | mutations | module right | in the table of causes | cause right |", "|---|---|---|---|---|"]
    names = [name for name in PAIRS if any(outcome.mutation.pair == name for outcome in outcomes)]
    for name in [*names, "all"]:
        here = [outcome for outcome in outcomes if name in ("all", outcome.mutation.pair)]
        known = [outcome for outcome in here if outcome.in_table]
        located, named = sum(o.located for o in here), sum(o.named for o in known)
        lines.append(f"| {name} | {len(here)} | {located} | {len(known)} | {named} |")
    here = [outcome for outcome in outcomes if outcome.in_table]
    rates = sum(o.located for o in outcomes) / len(outcomes), sum(o.named for o in here) / max(len(here), 1)
    return "\n".join([*lines, "", f"module right: {rates[0]:.1%}, cause right: {rates[1]:.1%}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help=f"{', '.join(PAIRS)} (default: all)")
    parser.add_argument("--three", type=int, default=0, metavar="DRAWS", help="plant three at once, this many times")
    options = parser.parse_args()
    pairs = options.pairs or list(PAIRS)
    singles = [(mutation,) for mutation in IN_ONE_PASS if mutation.pair in pairs]
    outcomes = []
    start = time.process_time()
    for mutations in draws(options.three, pairs) if options.three else singles:
        before = time.process_time()
        report = planted(mutations)
        judged = judge(report, mutations)
        outcomes += judged
        for outcome in judged:
            marks = ("located" if outcome.located else "ELSEWHERE"), ("named" if outcome.named else "NOT NAMED")
            known = "" if outcome.in_table else ", not in the table"
            print(f"{outcome.mutation.name} ({outcome.mutation.cause}{known}): {', '.join(marks)}")
        for finding in report.findings:
            print(f"    {finding.name}, {finding.evidence}: {'; '.join(map(str, finding.places))}")
        print(f"    {time.process_time() - before:.0f} s of processor time", flush=True)
    print(f"\n{table(outcomes)}, {time.process_time() - start:.0f} s of processor time")


if __name__ == "__main__":
    main()
