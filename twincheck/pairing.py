"""Which call of one model is which of the other, and which parameter is which: by order, sizes and names."""

import difflib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from twincheck.recording import SOWN, Array, Call, Recording

_SAME_WORD = {
    "scale": "weight", "kernel": "weight", "embedding": "weight", "w": "weight", "b": "bias", "offset": "bias",
    "mean": "running_mean", "var": "running_var", "proj": "projection", "fc": "classifier", "layers": "layer",
    "blocks": "layer", "block": "layer", "h": "layer", "q": "query", "k": "key", "v": "value", "ln": "layernorm",
    "norm": "layernorm", "wte": "embed", "out": "output", "o": "output",
}  # fmt: skip
"""Names that different libraries have for one thing."""

A = TypeVar("A")
B = TypeVar("B")

NOT_LEARNED = ("num_batches_tracked",)
_COMPOSITE = ("MultiheadAttention", "GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell")
"""torch modules that compute by themselves what JAX libraries build of several modules."""


@dataclass
class Unit:
    """A call with all the parameters that it works with, by full name: a module without others that have any."""

    call: Call
    parameters: Mapping[str, Any]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(sorted((int(np.prod(p.shape)) for p in self.parameters.values()), reverse=True))


@dataclass(frozen=True)
class Link:
    """Calls that are one computation: one call of each model, or one that does what several do in the other.

    With several torch calls their outputs side by side are the JAX call's output. With `piece` (i, n) the JAX call's
    output is the i-th of n equal parts of the torch call's.
    """

    torch: tuple[Unit, ...]
    jax: Unit
    piece: tuple[int, int] | None = None

    def __hash__(self) -> int:
        return hash(self.jax.call.key)


@dataclass
class Pairing:
    """The links in the order of the JAX calls, and the pairs of parameters outside of modules.

    `groups` are pairs of a composite torch module and several JAX modules that no module holds together: their weights
    are paired, and they are checked as code.
    """

    links: list[Link]
    groups: list[Link] = field(default_factory=list)
    outside: list[tuple[str, str]] = field(default_factory=list)


def pair_calls(
    torch: Recording, torch_parameters: Mapping[str, Array], jax: Recording, jax_parameters: Mapping[str, Array]
) -> Pairing:
    """Pairs the calls and the parameters of two models."""
    torch_parameters = {n: a for n, a in torch_parameters.items() if n.rpartition(".")[2] not in NOT_LEARNED}
    units_t, units_j = units(torch, torch_parameters), units(jax, jax_parameters)
    units_j = _collapse(units_t, units_j, jax, jax_parameters)
    links = _by_name(_align(units_t, units_j)) + _sown(torch, jax)
    order = {call.key: i for i, call in enumerate(jax.calls)}
    links.sort(key=lambda link: order[link.jax.call.key])
    groups = list(_groups(units_t, units_j, links))
    inside_t = {name for link in (*links, *groups) for unit in link.torch for name in unit.parameters}
    inside_j = {name for link in (*links, *groups) for name in link.jax.parameters}
    left_t = [name for name in torch_parameters if name not in inside_t]
    left_j = [name for name in jax_parameters if name not in inside_j]
    outside = assign(
        left_t, left_j, lambda n: n, lambda n: n, lambda n: torch_parameters[n].size, lambda n: jax_parameters[n].size
    )
    return Pairing(links, groups, outside)


def _sown(torch: Recording, jax: Recording) -> list[Link]:
    """Links what the JAX model sows with torch's call of the same name."""
    named = {call.key: call for call in torch.calls}
    sown = [call for call in jax.calls if call.kind == SOWN and call.key in named]
    return [Link((Unit(named[call.key], {}),), Unit(call, {})) for call in sown]


def units(recording: Recording, parameters: Mapping[str, Array]) -> list[Unit]:
    """Returns the calls of modules that have parameters and call no module that has any."""
    called = {call.path for call in recording.calls}

    def owner(name: str) -> str:
        path = re.split(r"(?:^|\.)parametrizations\.", name.rpartition(".")[0])[0]  # as torch's weight_norm makes them
        while path not in called and path:
            path = path.rpartition(".")[0]
        return path

    owned: dict[str, dict[str, Array]] = {}
    for name, array in parameters.items():
        owned.setdefault(owner(name), {})[name] = array
    outer = {parent for call in recording.calls if call.path in owned for parent in call.parents}
    found = []
    for call in recording.calls:
        if call.path in owned and call.path not in outer:
            found.append(Unit(call, owned[call.path]))
    return found


def _collapse(
    torch: Sequence[Unit], jax: Sequence[Unit], recording: Recording, parameters: Mapping[str, Array]
) -> list[Unit]:
    """Returns the JAX units with those inside the counterpart of a composite torch module replaced by that one call."""
    result, taken = list(jax), set[str]()
    for unit in torch:
        if unit.call.kind not in _COMPOSITE:
            continue
        fitting = _fitting(unit)
        blocks = []
        for call in recording.calls:
            inside = {n: a for n, a in parameters.items() if n.startswith(f"{call.path}.") or not call.path}
            several = sum(set(other.parameters) <= set(inside) for other in jax) > 1
            total_fits = sum(array.size for array in inside.values()) in fitting
            if several and total_fits and call.path not in taken and call.number == unit.call.number:
                blocks.append(Unit(call, inside))
        same_input = [
            block
            for block in blocks
            if block.call.inputs and unit.call.inputs and block.call.inputs[0].size == unit.call.inputs[0].size
        ]
        if not same_input:
            continue
        first = same_input[0]
        chain = [b for b in same_input if b is first or first.call.path in b.call.parents or not first.call.path]
        block = chain[-1] if len({tuple(sorted(b.parameters)) for b in chain}) == 1 else first
        taken.add(block.call.path)
        replaced = [i for i, other in enumerate(result) if set(other.parameters) <= set(block.parameters)]
        if replaced:
            result[replaced[0] : replaced[-1] + 1] = [block]
    return result


def _fitting(unit: Unit) -> set[int]:
    """Returns how many parameters the counterpart of a composite module may have: biases may be joined or missing."""
    total = sum(unit.sizes)
    biases = {name: int(np.prod(p.shape)) for name, p in unit.parameters.items() if "bias" in name}
    hidden = sum(size for name, size in biases.items() if "bias_hh" in name)
    return {total, total - hidden, total - hidden * 2 // 3, *(total - size for size in biases.values())}


def _groups(torch: Sequence[Unit], jax: Sequence[Unit], links: Sequence[Link]) -> Iterator[Link]:
    """Yields links between composite torch units that have none and runs of JAX units that have as many parameters."""
    linked_t = {unit.call.path for link in links for unit in link.torch}
    linked_j = {link.jax.call.path for link in links}
    alone: dict[str, Unit] = {unit.call.path: unit for unit in jax if unit.call.path not in linked_j}
    for unit in torch:
        if unit.call.kind not in _COMPOSITE or unit.call.path in linked_t:
            continue
        paths, fitting = list(alone), _fitting(unit)
        for start, end in itertools.combinations(range(len(paths) + 1), 2):
            inside: dict[str, Any] = {}
            for path in paths[start:end]:
                inside |= alone[path].parameters
            if sum(int(np.prod(p.shape)) for p in inside.values()) in fitting:
                yield Link((unit,), Unit(alone[paths[start]].call, inside))
                for path in paths[start:end]:
                    del alone[path]
                break


def _align(torch: Sequence[Unit], jax: Sequence[Unit]) -> list[Link]:
    """Aligns two sequences of units by what they own; one unit may do what two or three do on the other side."""
    count_t, count_j = len(torch), len(jax)
    best = np.zeros((count_t + 1, count_j + 1))
    step = np.zeros((count_t + 1, count_j + 1, 2), int)
    for i in range(count_t - 1, -1, -1):
        for j in range(count_j - 1, -1, -1):
            options = [(best[i + 1, j], (1, 0)), (best[i, j + 1], (0, 1))]
            if (score := _score(torch[i], jax[j])) > 0:
                options.insert(0, (score + best[i + 1, j + 1], (1, 1)))
            for n in (2, 3):
                if i + n <= count_t and _together(torch[i : i + n], jax[j]):
                    options.append((n * 0.9 + best[i + n, j + 1], (n, 1)))
                if j + n <= count_j and _together(jax[j : j + n], torch[i]):
                    options.append((n * 0.9 + best[i + 1, j + n], (1, n)))
            best[i, j], step[i, j] = max(options, key=lambda option: option[0])
    links, i, j = [], 0, 0
    while i < count_t and j < count_j:
        down, across = (int(n) for n in step[i, j])
        if down and across > 1:
            links += [Link((torch[i],), jax[j + n], (n, across)) for n in range(across)]
        elif down and across:
            links.append(Link(tuple(torch[i : i + down]), jax[j]))
        i, j = i + down, j + across
    return links


def _score(a: Unit, b: Unit) -> float:
    if a.call.kind not in _COMPOSITE and a.sizes[0] != b.sizes[0]:
        return 0.0
    if a.call.kind in _COMPOSITE and not abs(sum(a.sizes) - sum(b.sizes)) < 0.1 * sum(a.sizes):
        return 0.0
    return 1 + 0.2 * (a.sizes == b.sizes) + 0.1 * alike(a.call.path, b.call.path)


def _together(parts: Sequence[Unit], whole: Unit) -> bool:
    """Tells whether `parts` have the same input and together as many parameters as `whole`."""
    if whole.call.kind in _COMPOSITE or sum(unit.sizes[0] for unit in parts) != whole.sizes[0]:
        return False
    if len({unit.sizes[0] for unit in parts}) != 1:  # a bias may be missing
        return False
    return all(_same_input(parts[0].call, unit.call) for unit in parts[1:])


def _same_input(a: Call, b: Call) -> bool:
    if not a.inputs or not b.inputs or a.inputs[0].shape != b.inputs[0].shape:
        return False
    return bool(np.array_equal(a.inputs[0], b.inputs[0]))


def _by_name(links: list[Link]) -> list[Link]:
    """Pairs those torch calls that follow each other on the same input anew, by their names."""
    result: list[Link] = []
    start = 0
    while start < len(links):
        end = start + 1
        while (
            end < len(links)
            and len(links[end].torch) == len(links[start].torch) == 1
            and links[end].piece is links[start].piece is None
            and _same_input(links[start].torch[0].call, links[end].torch[0].call)
        ):
            end += 1
        group = links[start:end]
        pairs = assign(
            [link.torch[0] for link in group],
            [link.jax for link in group],
            lambda unit: unit.call.path,
            lambda unit: unit.call.path,
            lambda unit: unit.sizes[0],
            lambda unit: unit.sizes[0],
        )
        result += [Link((a,), b) for a, b in pairs] if len(pairs) == len(group) > 1 else group
        start = end
    return result


def assign(
    first: Sequence[A],
    second: Sequence[B],
    name_a: Callable[[A], str],
    name_b: Callable[[B], str],
    size_a: Callable[[A], int],
    size_b: Callable[[B], int],
) -> list[tuple[A, B]]:
    """Pairs things of equal size so that their names are alike, as an assignment problem."""
    if not first or not second:
        return []
    never = 1e6
    cost = np.full((len(first), len(second)), never)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            if size_a(a) == size_b(b):
                cost[i, j] = 3 - alike(name_a(a), name_b(b))
    rows, columns = linear_sum_assignment(cost)
    return [(first[i], second[j]) for i, j in zip(rows, columns, strict=True) if cost[i, j] < never]


def alike(a: str, b: str) -> float:
    """Returns how alike two dotted names are, 0 to 2.3: in their words, in the last two words, in their numbers."""
    words_a, words_b = _words(a), _words(b)
    numbers_a, numbers_b = [w for w in words_a if w.isdigit()], [w for w in words_b if w.isdigit()]
    whole = difflib.SequenceMatcher(None, words_a, words_b).ratio()
    end = difflib.SequenceMatcher(None, words_a[-2:], words_b[-2:]).ratio()
    return whole + 0.7 * end + 0.6 * (numbers_a == numbers_b)


def _words(name: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=\d)", ".", re.sub(r"(?<=[a-z])(?=[A-Z])", ".", name).lower())
    return [_SAME_WORD.get(word, word) for word in re.split(r"[._/~]+", apart) if word]
