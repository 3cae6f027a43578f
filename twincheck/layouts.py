"""How one framework's array lies in the other's: axes permuted, reversed, split or merged."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from twincheck.recording import Array


@dataclass(frozen=True)
class Layout:
    """First a reshape to `split`, then a permutation of the axes, then reversed axes, then a reshape to `shape`.

    With `repeats` the array is repeated along axes of length 1 instead of the last reshape. Before all else, only the
    first element is taken along the axes in `first`, where all are equal.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    reverse: tuple[int, ...] = ()
    split: tuple[int, ...] | None = None
    repeats: bool = False
    first: tuple[int, ...] = ()

    @property
    def sums(self) -> bool:
        """Tells whether a gradient in one layout is a sum of gradients in the other."""
        return self.repeats or bool(self.first)

    @property
    def is_guessed(self) -> bool:
        """Tells whether the axes are permuted, and are so long that another order fits too."""
        axes = self.axes or ()
        if axes == tuple(range(len(axes))) or len(axes) != len(self.shape):
            return False
        return all(self.shape[i] == self.shape[axis] for i, axis in enumerate(axes))

    def __call__(self, array: Array) -> Array:
        if self.first:
            array = array[tuple(slice(1) if axis in self.first else slice(None) for axis in range(array.ndim))]
        if self.split is not None:
            array = array.reshape(self.split)
        if self.axes is not None:
            array = array.transpose(self.axes)
        if self.reverse:
            array = np.flip(array, self.reverse)
        return np.broadcast_to(array, self.shape) if self.repeats else array.reshape(self.shape)

    def code(self, name: str, shape: Sequence[int]) -> str:
        """Returns NumPy code that does the same to an array of this shape called `name`."""
        text, shape = name, tuple(shape)
        if self.split is not None:
            text, shape = f"{text}.reshape{self.split}", self.split
        if self.axes is not None and self.axes != tuple(range(len(shape))):
            text += ".T" if self.axes == (1, 0) else f".transpose{self.axes}"
            shape = tuple(shape[axis] for axis in self.axes)
        if self.reverse:
            text = f"np.flip({text}, {self.reverse})"
        return text if shape == self.shape else f"{text}.reshape{self.shape}"


def distances(a: Array, b: Array) -> Array:
    """Returns how far the elements of two arrays are apart; equal infinities are 0 apart, and nan from nan too."""
    kind = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    a, b = a.astype(kind), b.astype(kind)
    with np.errstate(invalid="ignore"):
        return np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))


def activation_layouts(source: Sequence[int], target: Sequence[int]) -> Iterator[Layout]:
    """Yields the ways in which an activation of one shape can lie in the other, likeliest first."""
    source, target = tuple(source), tuple(target)
    count = len(source)
    if np.prod(source) != np.prod(target):
        if count == len(target) and all(a in (1, b) for a, b in zip(source, target, strict=True)):
            yield Layout(target, repeats=True)
        if count == len(target) and all(b in (1, a) for a, b in zip(source, target, strict=True)):
            yield Layout(target, first=tuple(axis for axis in range(count) if target[axis] == 1))
        if count == len(target) + 1 and source[1:] == target:
            yield Layout(target, first=(0,))
        return
    if source == target and count == 2:
        yield Layout(target, (0, 1))
        return
    if count == len(target):
        likely = [tuple(range(count))]
        if count >= 3:
            likely += [(0, *range(2, count), 1), (0, count - 1, *range(1, count - 1))]
        others = itertools.permutations(range(count)) if count <= 5 else ()
        for axes in dict.fromkeys([*likely, *others]):
            if tuple(source[axis] for axis in axes) == target:
                yield Layout(target, axes)
        return
    yield Layout(target)
    if count >= 3:
        yield Layout(target, (0, *range(2, count), 1))
    if count == 4:
        yield Layout(target, (0, 2, 1, 3))
    if len(target) >= 3:
        swapped = (0, *range(2, len(target)), 1) if len(target) != 4 else (0, 2, 1, 3)
        before = tuple(target[swapped.index(axis)] for axis in range(len(target)))
        yield Layout(target, swapped, split=before)


def nearest(array: Array, like: Array, usual: tuple[int, ...] | None = None) -> Layout | None:
    """Returns the layout in which `array` is nearest to `like`.

    Of equally near ones it is the likeliest, which is the order of axes `usual` if that fits.
    """
    best, smallest = None, np.inf
    close = 1e-3 * float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
    for layout in sorted(activation_layouts(array.shape, like.shape), key=lambda layout: layout.axes != usual):
        laid_out = layout(array)
        if layout.first and distances(np.broadcast_to(laid_out, array.shape), array).any():
            continue
        if best is None:
            best = layout
        distance = float(distances(laid_out, like).max(initial=0.0))
        if distance < 0.5 * smallest:
            best, smallest = layout, distance
        if distance <= close:
            break
    return best


def usual_axes(layouts: Iterable[Layout | None], count: int) -> tuple[int, ...] | None:
    """Returns the commonest order of `count` axes in these layouts, of those that the shapes show."""
    fitting = (layout for layout in layouts if layout and len(layout.axes or ()) == count)
    found = Counter(layout.axes for layout in fitting if not layout.is_guessed)
    return found.most_common(1)[0][0] if found else None


def output_layout(array: Array, like: Array, layouts: Iterable[Layout | None]) -> Layout | None:
    """Returns the layout of a returned array: the nearest, but with equal shapes only an order that others have.

    `layouts` are those of the model's other tensors. A matrix that is returned transposed is a mistake, even if square.
    """
    usual = usual_axes(layouts, array.ndim)
    if array.shape != like.shape:
        return nearest(array, like, usual)
    orders = [Layout(like.shape, axes) for axes in (tuple(range(array.ndim)), usual) if axes is not None]
    fitting = [layout for layout in orders if array.transpose(layout.axes).shape == like.shape]
    return min(fitting, key=lambda layout: float(distances(layout(array), like).max(initial=0.0)))


def weight_layouts(kind: str, shape: Sequence[int], target: Sequence[int]) -> Iterator[Layout]:
    """Yields the ways in which a weight of a torch module of this kind can lie in a JAX model, likeliest first.

    torch stores a linear layer (out, in) and a convolution (out, in, spatial...); a transposed convolution (in, out,
    spatial...). Flax and Haiku store (in, out) and (spatial..., in, out), Equinox the same as torch. Heads may be an
    axis of their own.
    """
    source, target = tuple(shape), tuple(target)
    if np.prod(source) != np.prod(target):
        return
    spatial = tuple(range(2, len(source)))
    orders: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    as_it_is = tuple(range(len(source)))
    if len(source) == 2 and kind in ("Embedding", "Conv1D", "Parameter"):
        orders = [((0, 1), ()), ((1, 0), ())]
    elif len(source) == 2:
        orders = [((1, 0), ()), ((0, 1), ())]
    elif len(source) >= 3 and kind.startswith("ConvTranspose"):
        last = tuple(range(len(spatial)))
        orders = [((*spatial, 0, 1), last), ((*spatial, 0, 1), ()), ((*spatial, 1, 0), ()), ((*spatial, 1, 0), last)]
        orders += [((1, 0, *spatial), spatial), ((1, 0, *spatial), ()), (as_it_is, ()), (as_it_is, spatial)]
    elif len(source) >= 3 and kind.startswith("Conv"):
        orders = [((*spatial, 1, 0), ()), (as_it_is, ())]
    elif len(source) <= 4:
        orders = [(axes, ()) for axes in itertools.permutations(as_it_is)]
    else:
        orders = [(as_it_is, ())]
    seen = set()
    for axes, reverse in orders:
        permuted = tuple(source[axis] for axis in axes)
        if permuted == target or len(permuted) != len(target):
            layout = Layout(target, axes, reverse)
            if layout not in seen:
                seen.add(layout)
                yield layout
