"""Turns a handwritten digit in a picture into an image like MNIST's.

"The original black and white (bilevel) images from NIST were size normalized to fit in a 20x20 pixel box while
preserving their aspect ratio. The resulting images contain grey levels as a result of the anti-aliasing technique used
by the normalization algorithm. The images were centered in a 28x28 image by computing the center of mass of the
pixels, and translating the image so as to position this point at the center of the 28x28 field."
(Y. LeCun, C. Cortes, C. J. C. Burges: The MNIST database of handwritten digits, http://yann.lecun.com/exdb/mnist/)

In pixels counted from 0 that centre is (14, 14). In each of MNIST's 70,000 images the centre of mass is within 0.52 of
it. The digit's longer side is 19 or 20, and at least 94 % of the frame is black. `mlp_workload.data.framing` measures
the numbers of other sets.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mlp_workload.data.framing import FAINT, MNIST, Framing, centre_of_mass
from mlp_workload.errors import UserError
from mlp_workload.predict.image_file import Grey, bounds

SHAPE = (28, 28)
"""Shape of MNIST's images."""
_FAINTEST = 24.0
"""Least difference of ink from paper, in grey levels."""
_SPECK = 0.05
"""Least area of a stroke, as a fraction of the largest one's; anything smaller is dirt."""
_NEIGHBOURS = np.ones((3, 3), bool)
"""A pixel and its eight neighbours."""

Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]


def find_digit(grey: Grey, shape: tuple[int, int] = SHAPE, framing: Framing = MNIST) -> npt.NDArray[np.uint8]:
    """Returns the digit in a picture (height, width), 0 black to 255 white, drawn in `shape` with `framing`.

    A picture that has this form already, or its negative, is copied pixel for pixel. Otherwise the digit is what
    differs from the paper, which may be lit unevenly, in the direction in which more differs. Raises `UserError` if
    nothing does.
    """
    for picture in (grey, 255 - grey):
        if is_already(picture, shape, framing):
            return np.rint(picture).astype(np.uint8)
    coverage = _placed(_in_box(_ink(grey), shape, framing.box), shape, framing)
    return np.rint(framing.paper + (framing.ink - framing.paper) * coverage).astype(np.uint8)


def is_already(picture: Grey, shape: tuple[int, int] = SHAPE, framing: Framing = MNIST) -> bool:
    """Returns whether `picture` has `shape`, and paper, size and centre of `framing`."""
    if picture.shape != shape:
        return False
    frame = np.concatenate([picture[[0, -1]].ravel(), picture[:, [0, -1]].ravel()])
    coverage = framing.coverage(picture)
    if (np.abs(frame - framing.paper) <= 1).mean() < 0.5 or not 0.5 <= coverage.max() <= 1 + FAINT:
        return False
    drawn = np.where(coverage > FAINT, coverage, 0)
    off_centre = np.abs(_centre(drawn, framing) - framing.centre).max()
    return bool(_side(drawn) <= framing.box and off_centre <= framing.off_centre)


def _centre(coverage: Grey, framing: Framing) -> Vector:
    """Returns the centre (row, column) that the framing uses, in pixels from 0."""
    if framing.centred_by == "mass":
        return centre_of_mass(coverage)
    return np.array([(bound.start + bound.stop - 1) / 2 for bound in bounds(coverage)])


def _ink(grey: Grey) -> Grey:
    """Returns the ink of each pixel, 0 to 1, cropped to the strokes. Raises `UserError` if there is none."""
    deviation = grey - _paper(grey)
    step = np.diff(deviation.ravel(), prepend=deviation[0, 0])
    noise = min(_deviation(deviation), _deviation(step) / 2**0.5)  # the first is too large if ink fills the picture
    smooth = ndimage.uniform_filter(deviation, 3, mode="nearest") if noise >= 1 else deviation
    threshold = max(_FAINTEST, 3 * noise)
    if smooth[np.abs(smooth) > threshold].sum() < 0:
        deviation, smooth = -deviation, -smooth
    if smooth.max() <= threshold:
        raise UserError("no digit: the picture is blank")
    strokes = _strokes(smooth > max(threshold, smooth.max() / 3))
    near = ndimage.binary_dilation(strokes, _NEIGHBOURS)
    full = np.quantile(deviation[strokes], 0.75)
    edge = max(0.05 * full, 3 * noise)  # the least ink at the edge of a stroke
    ink = np.where(strokes | (near & (deviation > edge)), np.clip(deviation / full, 0, 1), 0)
    return ink[bounds(ink)]


def _side(picture: npt.NDArray[Any]) -> int:
    """Returns the longer side of the picture's non-zero part, in pixels."""
    return int(max(bound.stop - bound.start for bound in bounds(picture)))


def _paper(grey: Grey) -> Grey:
    """Returns the paper's brightness: a polynomial of degree 2, first fitted to the frame, robustly."""
    rows, columns = (np.linspace(-1, 1, n) for n in grey.shape)
    down, right = (-(-n // 100) for n in grey.shape)
    terms, values = _terms(rows[::down], columns[::right]), grey[::down, ::right].ravel()
    frame = np.abs(terms[:, 1:3]).max(axis=1) >= 0.9  # a twentieth of the picture at each side
    deviation = np.zeros_like(values)
    for _ in range(10):
        coefficients = _fitted(terms, values, frame / (np.abs(deviation) + 1))
        deviation = values - terms @ coefficients
    for _ in range(5):
        is_paper = np.abs(deviation) <= max(_FAINTEST / 2, 3 * _deviation(deviation))
        coefficients = _fitted(terms, values, is_paper)
        deviation = values - terms @ coefficients
    return (_terms(rows, columns) @ coefficients).reshape(grey.shape)


def _terms(rows: Vector, columns: Vector) -> Grey:
    """Returns the polynomial's terms (pixels, 6)."""
    y, x = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _fitted(terms: Grey, values: Vector, weights: npt.NDArray[Any]) -> Vector:
    """Returns the coefficients (terms,) by weighted least squares."""
    weighted = terms * weights[:, None]
    return np.asarray(np.linalg.lstsq(weighted.T @ terms, weighted.T @ values)[0])


def _deviation(deviation: Grey) -> float:
    """Returns the standard deviation by the median, which strokes on less than half of the picture do not change."""
    return float(1.4826 * np.median(np.abs(deviation)))


def _strokes(mask: Mask) -> Mask:
    """Returns the large connected parts of `mask`.

    If one lies inside the picture, parts that touch its border, such as shadows or the desk, do not count.
    """
    parts, _ = ndimage.label(mask, _NEIGHBOURS)
    areas = np.bincount(parts[mask])
    inside = areas.copy()
    for border in (parts[[0, -1]], parts[:, [0, -1]]):
        inside[border] = 0
    if inside.max() >= _SPECK * areas.max():
        areas = inside
    return np.asarray(mask & (areas[parts] >= _SPECK * areas.max()))


def _in_box(ink: Grey, shape: tuple[int, int], box: int) -> Grey:
    """Returns `ink` scaled to fit the box and the image, with maximum 1."""
    from PIL import Image

    scale = min(box / max(ink.shape), *(size / n for size, n in zip(shape, ink.shape, strict=True)))
    height, width = (max(1, round(n * scale)) for n in ink.shape)
    small = np.asarray(Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.BOX), float)
    return np.asarray(small / small.max())


def _placed(ink: Grey, shape: tuple[int, int], framing: Framing) -> Grey:
    """Returns `ink` in an empty image of `shape`, centred as in the framing."""
    height, width = shape
    field = np.zeros((3 * height, 3 * width))
    top, left = np.floor(np.array(shape) + framing.centre - _centre(ink, framing) + 0.5).astype(int)
    field[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return field[height:-height, width:-width]
