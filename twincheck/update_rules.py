"""The update rules of torch's optimizers, written out in NumPy with the options of both frameworks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from twincheck.recording import Array


@dataclass
class Parameter:
    """A sample of one parameter in one step. `entering` is the gradient as torch's optimizer got it, clipped or not."""

    torch: str
    settings: Mapping[str, Any] | None
    exact: float
    two_biases: bool
    value: Array
    gradient: Array
    entering: Array
    theirs: Array
    ours: Array
    norm: float


@dataclass
class UpdateRecord:
    """The updates of one step. `norm` is that of all gradients together."""

    norm: float
    parameters: dict[str, Parameter] = field(default_factory=dict)

    def add(
        self, name: str, torch: str, settings: Mapping[str, Any] | None, exact: float, two_biases: bool,
        arrays: Sequence[Array], norm: float,
    ) -> None:  # fmt: skip
        value, gradient, entering, theirs, ours = (np.asarray(array, np.float64) for array in arrays)
        self.parameters[name] = Parameter(
            torch, settings, exact, two_biases, value, gradient, entering, theirs, ours, norm
        )


class History:
    """The samples of some parameters side by side, one row for each step."""

    def __init__(self, records: Sequence[UpdateRecord], names: Sequence[str]) -> None:
        self.names = names
        rows = [[record.parameters[name] for name in names] for record in records]
        self._sizes = [parameter.value.size for parameter in rows[0]]

        def stacked(of: Callable[[Parameter], Array]) -> Array:
            return np.stack([np.concatenate([of(parameter) for parameter in row]) for row in rows])

        def repeated(of: Callable[[Parameter], float]) -> Array:
            return stacked(lambda parameter: np.full(parameter.value.shape, float(of(parameter))))

        self.value, self.gradient = stacked(lambda p: p.value), stacked(lambda p: p.gradient)
        self.entering, self.theirs, self.ours = (
            stacked(lambda p: p.entering),
            stacked(lambda p: p.theirs),
            stacked(lambda p: p.ours),
        )
        self.total_norm = np.array([[record.norm] for record in records])
        self.own_norm, self.exact = repeated(lambda p: p.norm), repeated(lambda p: p.exact)
        self.kind = str((rows[0][0].settings or {}).get("kind", ""))
        self.settings: dict[str, Any] = {}
        for key, example in (rows[0][0].settings or {}).items():
            if isinstance(example, bool):
                self.settings[key] = example
            elif key == "betas":
                for i, beta in enumerate(("b1", "b2")):
                    self.settings[beta] = repeated(lambda p, i=i: (p.settings or {})["betas"][i])  # type: ignore[misc]
            elif isinstance(example, int | float) or hasattr(example, "item"):
                self.settings[key] = repeated(lambda p, key=key: (p.settings or {}).get(key, 0.0))  # type: ignore[misc]
        self.scale = repeated(lambda p: max(np.abs(p.ours).max(), np.abs(p.theirs).max()) if p.ours.size else 0.0)

    def slices(self) -> Iterator[tuple[str, slice]]:
        """Yields each parameter's name and its columns."""
        start = 0
        for name, size in zip(self.names, self._sizes, strict=True):
            yield name, slice(start, start + size)
            start += size

    @property
    def clipped_norm(self) -> float | None:
        """Returns the norm that torch's gradients were clipped to together, if they were, by `clip_grad_norm_`."""
        return _clip_norm(self.gradient, self.entering, self.total_norm)

    @property
    def clipped_each_norm(self) -> float | None:
        """Returns the norm that each of torch's gradients was clipped to by itself, if they were."""
        return _clip_norm(self.gradient, self.entering, self.own_norm)

    @property
    def clipped_value(self) -> float | None:
        """Returns the value that each element of torch's gradients was clipped at, if it was, by `clip_grad_value_`."""
        if np.array_equal(self.gradient, self.entering):
            return None
        size = np.abs(self.entering).max()
        return float(size) if np.array_equal(np.clip(self.gradient, -size, size), self.entering) else None


def _clip_norm(raw: Array, entering: Array, norm: Array) -> float | None:
    """Returns the norm that gradients were clipped to, if what entered the optimizer is that, everywhere."""
    cut = np.abs(entering) < np.abs(raw) * (1 - 1e-12)
    if not cut.any():
        return None
    norm = np.broadcast_to(norm, raw.shape)
    size = float(f"{np.median((entering / np.where(cut, raw, 1.0) * (norm + 1e-6))[cut]):.10g}")
    clipped = raw * np.minimum(1.0, size / (norm + 1e-6))
    return size if (np.abs(clipped - entering) <= 1e-6 * np.abs(entering).max()).all() else None


def _clipped(history: History, clip: tuple[str, float] | None) -> Array:
    if clip is None:
        return history.entering
    how, size = clip
    g = history.gradient
    if how == "none":
        return g
    if how == "value":
        return np.clip(g, -size, size)
    norm = history.own_norm if how == "each" else history.total_norm
    return g * np.minimum(1.0, size / np.maximum(norm + (1e-6 if how == "torch" else 0.0), 1e-300))


def simulate(history: History, changes: Mapping[str, Any]) -> Array | None:
    """Returns the updates that torch's rule gives with these settings changed; None for a rule that isn't known."""
    s = {"coupled": history.kind != "AdamW", **history.settings, **changes}
    if history.kind not in DIRECTIONS:
        return None
    if s.get("decoupled_weight_decay") and "coupled" not in changes:
        s["coupled"] = False
    gradients, sign = _clipped(history, s.get("clip")), -1.0 if s.get("maximize") else 1.0
    memory: dict[str, Any] = {}
    updates = []
    for t in range(len(gradients)):
        now = {key: value[t] if isinstance(value, np.ndarray) else value for key, value in s.items()}
        decay = now.get("weight_decay", 0.0) * history.value[t]
        g = sign * gradients[t] + (decay if s["coupled"] else 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            direction = np.nan_to_num(DIRECTIONS[history.kind](now, memory, g, t))
        updates.append(-now["lr"] * (direction + (0.0 if s["coupled"] else decay)))
    return np.stack(updates)


def _adam(s: Mapping[str, Any], memory: dict[str, Any], g: Array, t: int) -> Array:
    b1, b2, n = s["b1"], s["b2"], t + 1
    m = memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
    v = memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
    corrected = s.get("bias_correction", True)
    c1, c2 = (1 - b1**n, 1 - b2**n) if corrected else (1.0, 1.0)
    mean = b1 * m / (1 - b1 ** (n + 1)) + (1 - b1) * g / c1 if s.get("adam_nesterov") else m / c1
    if s.get("amsgrad") == "optax":  # it takes the largest after the correction, torch before
        v = memory["largest"] = np.maximum(memory.get("largest", 0.0), v / c2)
    else:
        if s.get("amsgrad"):
            v = memory["largest"] = np.maximum(memory.get("largest", 0.0), v)
        v = v / c2
    return np.asarray(mean / (np.sqrt(v + s.get("eps_root", 0.0)) + s["eps"]))


def _nadam(s: Mapping[str, Any], memory: dict[str, Any], g: Array, t: int) -> Array:
    if "adam_nesterov" in s:
        return _adam(s, memory, g, t)
    b1, b2, n = s["b1"], s["b2"], t + 1
    m = memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
    v = memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g**2
    mu, following = (b1 * (1 - 0.5 * 0.96 ** (k * s["momentum_decay"])) for k in (n, n + 1))
    product = memory["mu"] = memory.get("mu", 1.0) * mu
    mean = following * m / (1 - product * following) + (1 - mu) * g / (1 - product)
    return np.asarray(mean / (np.sqrt(v / (1 - b2**n)) + s["eps"]))


def _sgd(s: Mapping[str, Any], memory: dict[str, Any], g: Array, t: int) -> Array:
    momentum = s["momentum"]
    first = "m" not in memory
    m = memory["m"] = g if first else momentum * memory["m"] + (1 - s["dampening"]) * g
    return np.asarray(g + momentum * m if s["nesterov"] else np.where(momentum == 0, g, m))


def _rmsprop(s: Mapping[str, Any], memory: dict[str, Any], g: Array, t: int) -> Array:
    a = s["alpha"]
    v = memory["v"] = a * memory.get("v", s.get("initial", 0.0)) + (1 - a) * g**2
    v = v / (1 - a ** (t + 1)) if s.get("rms_correction") else v
    if s["centered"]:
        mean = memory["mean"] = a * memory.get("mean", 0.0) + (1 - a) * g
        v = v - mean**2
    d = g / np.sqrt(v + s["eps"]) if s.get("eps_inside") else g / (np.sqrt(v) + s["eps"])
    rate = s["lr"] if s.get("rate_inside") else 1.0
    buffer = memory["buffer"] = s["momentum"] * memory.get("buffer", 0.0) + rate * d
    return np.asarray(buffer / rate)


def _adagrad(s: Mapping[str, Any], memory: dict[str, Any], g: Array, t: int) -> Array:
    v = memory["v"] = memory.get("v", s["initial_accumulator_value"]) + g**2
    d = g / np.sqrt(v + s["eps"]) if s.get("eps_inside") else g / (np.sqrt(v) + s["eps"])
    return np.asarray(d / (1 + t * s["lr_decay"]))


DIRECTIONS: dict[str, Callable[[Mapping[str, Any], dict[str, Any], Array, int], Array]] = {
    "Adam": _adam, "AdamW": _adam, "NAdam": _nadam, "SGD": _sgd, "RMSprop": _rmsprop, "Adagrad": _adagrad,
}  # fmt: skip
