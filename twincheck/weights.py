"""Which torch arrays a JAX parameter is made of, and how."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from twincheck.layouts import Layout, weight_layouts
from twincheck.pairing import Link, Pairing, alike
from twincheck.recording import Array

_ROLE = {
    "kernel": "weight", "embedding": "weight", "scale": "weight", "w": "weight", "weight": "weight", "gamma": "weight",
    "bias": "bias", "b": "bias", "offset": "bias", "beta": "bias",
    "mean": "mean", "running_mean": "mean", "var": "var", "running_var": "var",
    "original0": "weight_g", "original1": "weight_v",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A torch array, or the rows `start` to `stop` of it."""

    name: str
    rows: tuple[int, int] | None = None

    def __call__(self, arrays: Mapping[str, Array]) -> Array:
        array = arrays[self.name]
        return array if self.rows is None else array[slice(*self.rows)]

    def __str__(self) -> str:
        return f"state[{json.dumps(self.name)}]" + (f"[{self.rows[0]}:{self.rows[1]}]" if self.rows else "")


@dataclass(frozen=True)
class Weight:
    """How one JAX parameter is made: the sources one below the other, or added up, in this layout.

    `alternatives` are other layouts of the same shape; weights of other modules of these kinds tell which is right.
    """

    jax: str
    sources: tuple[Source, ...]
    layout: Layout
    added: bool = False
    alternatives: tuple[Layout, ...] = ()

    def __call__(self, arrays: Mapping[str, Array]) -> Array:
        return self.layout(self._joined(arrays))

    def gradient(self, gradients: Mapping[str, Array]) -> Array | None:
        """Returns the torch gradient in the JAX parameter's layout; None if torch has none for it."""
        if any(source.name not in gradients for source in self.sources):
            return None
        return self.layout(self.sources[0](gradients) if self.added else self._joined(gradients))

    def _joined(self, arrays: Mapping[str, Array]) -> Array:
        parts = [source(arrays) for source in self.sources]
        return sum(parts[1:], parts[0]) if self.added else parts[0] if len(parts) == 1 else np.concatenate(parts)

    def code(self, arrays: Mapping[str, Array]) -> str:
        """Returns NumPy code that makes the parameter from torch's `state`, a dict of arrays."""
        parts = [str(source) for source in self.sources]
        joined = f"({' + '.join(parts)})" if self.added else f"np.concatenate([{', '.join(parts)}])"
        text = parts[0] if len(parts) == 1 else joined
        return f"{json.dumps(self.jax)}: {self.layout.code(text, self._joined(arrays).shape)},"


def pair_weights(
    pairing: Pairing, torch_parameters: Mapping[str, Array], jax_parameters: Mapping[str, Array], *, out_in: bool
) -> tuple[list[Weight], list[str]]:
    """Returns the weights of all links, and the JAX parameters in them that have no counterpart.

    `out_in` tells that the JAX library stores a dense kernel as torch does, (out, in).
    """
    weights: dict[str, Weight] = {}
    kinds: dict[str, tuple[str, str]] = {}
    missing: list[str] = []
    for link in (*pairing.links, *pairing.groups):
        found = _of_link(link, torch_parameters, jax_parameters, out_in)
        for name in link.jax.parameters:
            if name in found:
                weights.setdefault(name, found[name])
                kinds.setdefault(name, (link.torch[0].call.kind, link.jax.call.kind))
            elif name not in missing:
                missing.append(name)
    for torch_name, jax_name in pairing.outside:
        array = torch_parameters[torch_name]
        layouts = list(weight_layouts("Parameter", array.shape, jax_parameters[jax_name].shape))
        if layouts:
            weights[jax_name] = Weight(jax_name, (Source(torch_name),), layouts[0], alternatives=tuple(layouts[1:]))
        else:
            missing.append(jax_name)
    return _as_others_of_their_kind(weights, kinds), [name for name in missing if name not in weights]


def neutral(missing: Sequence[str], jax_parameters: Mapping[str, Array]) -> dict[str, Array]:
    """Returns zeros for the biases without a counterpart: torch's module computes the same without one."""
    return {name: np.zeros_like(jax_parameters[name]) for name in missing if _role(name) == "bias"}


def _as_others_of_their_kind(weights: Mapping[str, Weight], kinds: Mapping[str, tuple[str, str]]) -> list[Weight]:
    """Returns the weights, those of several possible layouts in the one that modules of the same kinds show.

    A square matrix fits either way; other matrices of such modules tell which way their class stores them.
    """
    shown: dict[tuple[str, str], Counter[tuple[int, ...] | None]] = defaultdict(Counter)
    for name, weight in weights.items():
        if not weight.alternatives and name in kinds and len(weight.layout.axes or ()) > 1:
            shown[kinds[name]][weight.layout.axes] += 1
    result = []
    for name, weight in weights.items():
        votes = shown.get(kinds.get(name, ("", "")))
        usual = votes.most_common(1)[0][0] if votes else None
        chosen = [layout for layout in weight.alternatives if layout.axes == usual]
        result.append(replace(weight, layout=chosen[0]) if chosen and weight.layout.axes != usual else weight)
    return result


def _of_link(
    link: Link, torch_parameters: Mapping[str, Array], jax_parameters: Mapping[str, Array], out_in: bool
) -> dict[str, Weight]:
    settings, kind = link.torch[0].call.settings, link.torch[0].call.kind
    if "num_embeddings" in settings:  # a class of its own may have any name
        kind = "Embedding"
    if kind in ("GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell"):
        pieces = _recurrent_pieces(kind, link.torch[0].parameters)
    elif kind == "MultiheadAttention":
        pieces = _attention_pieces(link.torch[0].parameters)
    else:
        pieces = {}
    if pieces:
        return _by_pieces(pieces, link, jax_parameters, out_in)
    found = {}
    for name, parameter in link.jax.parameters.items():
        shape = tuple(parameter.shape)
        rows = None
        candidates: list[tuple[str, ...]]
        if len(link.torch) > 1:
            by_role = [[n for n in unit.parameters if _role(n) == _role(name)] for unit in link.torch]
            candidates = [tuple(names[0] for names in by_role)] if all(by_role) else []
        else:
            candidates = [(n,) for n in link.torch[0].parameters]
        if link.piece is not None:
            n = link.piece[1]
            size = int(np.prod(shape))
            candidates = [(c[0],) for c in candidates if torch_parameters[c[0]].size == size * n]
        else:
            candidates = [c for c in candidates if sum(torch_parameters[n].size for n in c) == np.prod(shape)]
        if not candidates:
            continue
        names = max(candidates, key=lambda c: (_role(c[0]) == _role(name), alike(c[0], name)))
        if link.piece is not None:
            step = torch_parameters[names[0]].shape[0] // link.piece[1]
            rows = (link.piece[0] * step, (link.piece[0] + 1) * step)
        sources = tuple(Source(n, rows) for n in names)
        joined = sum(s(torch_parameters).shape[0] for s in sources), *sources[0](torch_parameters).shape[1:]
        layouts = list(_layouts(kind, joined, shape, out_in))
        if kind.startswith("ConvTranspose"):
            usual = _transposed_kernel(len(joined), out_in, link.jax.call.settings.get("transpose_kernel"))
            layouts.sort(key=lambda layout: (layout.axes, layout.reverse) != usual)
        if layouts:
            found[name] = Weight(name, sources, layouts[0], alternatives=tuple(layouts[1:]))
    return found


def _layouts(kind: str, source: Sequence[int], target: Sequence[int], out_in: bool) -> Iterator[Layout]:
    found = list(weight_layouts(kind, source, target))
    if out_in:
        found.sort(key=lambda layout: layout.axes != tuple(range(len(source))))
    yield from found


def _transposed_kernel(ndim: int, out_in: bool, as_torch: bool | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the axes of a transposed convolution's kernel, permuted, and those of them that are mirrored.

    Flax stores (spatial..., in, out) mirrored, and with `transpose_kernel`, `as_torch`, (spatial..., out, in) as it is.
    Haiku, which has no such setting, stores (spatial..., out, in) mirrored, and Equinox (out, in, spatial...).
    """
    spatial = tuple(range(2, ndim))
    if out_in:
        return (1, 0, *spatial), spatial
    channels = (0, 1) if as_torch is False else (1, 0)
    return (*spatial, *channels), () if as_torch else tuple(range(len(spatial)))


def _role(name: str) -> str:
    last = name.rpartition(".")[2]
    return _ROLE.get(last, last)


_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}


def _attention_pieces(parameters: Mapping[str, Any]) -> dict[str, list[Source]]:
    """Returns the parts of torch's MultiheadAttention by name: query, key, value and out, weights and biases."""
    pieces: dict[str, list[Source]] = {}
    for name, parameter in parameters.items():
        last = name.rpartition(".")[2]
        if last in ("in_proj_weight", "in_proj_bias"):
            pieces[f"qkv.{last.removeprefix('in_proj_')}"] = [Source(name)]
            rows = parameter.shape[0] // 3
            for i, part in enumerate(_PROJECTIONS.values()):
                pieces[f"{part}.{last.removeprefix('in_proj_')}"] = [Source(name, (i * rows, (i + 1) * rows))]
        elif last in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            pieces[f"{_PROJECTIONS[last[0]]}.weight"] = [Source(name)]
        elif ".out_proj." in f".{name}":
            pieces[f"out.{last}"] = [Source(name)]
    return pieces


_GATES = {"LSTM": "ifgo", "GRU": "rzn", "RNN": ""}


def _recurrent_pieces(kind: str, parameters: Mapping[str, Any]) -> dict[str, list[Source]]:
    """Returns the parts of torch's recurrent modules by name, such as `ir.weight` and `h.bias`, suffixes as torch's."""
    gates = _GATES[kind.removesuffix("Cell")]
    pieces: dict[str, list[Source]] = {}
    for name, parameter in parameters.items():
        what, _, rest = name.rpartition(".")[2].partition("_")
        side, _, suffix = rest.partition("_")  # "ih", "l0" or "l0_reverse"
        role = f"{what}{'.' + suffix if suffix and suffix != 'l0' else ''}"
        pieces[f"{side[0]}.{role}"] = [Source(name)]
        rows = parameter.shape[0] // max(len(gates), 1)
        for i, gate in enumerate(gates):
            pieces[f"{side[0]}{gate}.{role}"] = [Source(name, (i * rows, (i + 1) * rows))]
    return pieces


def _by_pieces(
    pieces: Mapping[str, list[Source]], link: Link, jax_parameters: Mapping[str, Array], out_in: bool
) -> dict[str, Weight]:
    found: dict[str, Weight] = {}
    arrays = {n: np.empty(p.shape, np.uint8) for n, p in link.torch[0].parameters.items()}
    for name, parameter in link.jax.parameters.items():
        shape = tuple(parameter.shape)
        fits: dict[str, Layout] = {}
        for piece, sources in pieces.items():
            for layout in _layouts("Linear", sources[0](arrays).shape, shape, out_in):
                if piece.split(".")[1].startswith(_role(name)[:4]):
                    fits.setdefault(piece, layout)
        if fits:
            piece = max(fits, key=lambda p: _part_score(p, name))
            found[name] = Weight(name, tuple(pieces[piece]), fits[piece])
    return _add_hidden_biases(found, pieces, link)


_INPUT, _HIDDEN = {"i", "x", "input", "inputs", "ih"}, {"h", "hidden", "recurrent", "state", "hh"}
_BACKWARD = {"backward", "reverse", "reversed", "bwd"}


def _part_score(piece: str, name: str) -> float:
    """Returns how well a part of a recurrent torch module, such as "ir.weight" or "h.bias.l1_reverse", fits a name."""
    part, _, role = piece.partition(".")
    words = set(re.split(r"[._]+", name.lower()))
    score = alike(piece, name)
    score += 10.0 * (part in words)
    score += 8.0 * bool(words & (_INPUT if part[0] == "i" else _HIDDEN))
    score += 6.0 * (("reverse" in role) == bool(words & _BACKWARD))
    layer = re.search(r"l(\d+)", role)
    return score + 4.0 * ((layer[1] if layer else "0") in words)


def _add_hidden_biases(found: dict[str, Weight], pieces: Mapping[str, list[Source]], link: Link) -> dict[str, Weight]:
    """Adds torch's second bias to the first where the JAX module has one bias for both."""
    used = {source for weight in found.values() for source in weight.sources}
    for name, weight in list(found.items()):
        for piece, sources in pieces.items():
            if sources[0] not in weight.sources or "bias" not in piece:
                continue
            other = ("h" if piece[0] == "i" else "i") + piece[1:]
            twin = pieces.get(other, [None])[0]
            if twin is not None and twin not in used and not (piece.startswith("in") and "n" in piece.split(".")[0]):
                found[name] = Weight(name, (*weight.sources, twin), weight.layout, added=True)
    return found
