"""PNG and JPEG files of any origin, as what is on the paper."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.errors import UserError
from mlp_workload.files import read_at_most

FORMATS = ("PNG", "JPEG")
LARGEST_FILE = 64 * 2**20
"""Bytes."""
LARGEST_IMAGE = 64_000_000
"""Pixels, which take up to 0.5 GB; few cameras have more."""
WORKING_SIDE = 200
"""Pixels of the longer side, to which what is larger is made smaller."""

Grey = npt.NDArray[np.float64]


def read(path: Path) -> Grey:
    """The image in `path`; see `decode`. Raises `UserError` where there is no such file, or `decode` refuses it."""
    return decode(read_at_most(path, LARGEST_FILE), str(path))


def decode(content: bytes, source: str) -> Grey:
    """Brightness (height, width) of a PNG or JPEG, 0 black to 255 white, at most `WORKING_SIDE` a side.

    Turned as its EXIF says; of an animation the first picture. Behind what is transparent there is white paper for dark
    ink, black for light; a transparent margin around what hides all is cut off.

    Raises `UserError`, naming the `source`, where it is no such image, is damaged, or has too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    too_large = f"more than {LARGEST_IMAGE // 10**6} million pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and the like
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > LARGEST_IMAGE:
                    raise UserError(f"{source}: {image.width}x{image.height}, {too_large}")
                image.draft(None, (2 * WORKING_SIDE, 2 * WORKING_SIDE))  # a JPEG then takes less
                deep = image.mode.startswith("I")
                if deep:
                    small = Image.fromarray((np.asarray(ImageOps.exif_transpose(image)) // 257).astype(np.uint8))
                else:
                    small = image.convert("RGBA")
            small.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
            pixels = np.asarray(ImageOps.exif_transpose(small).convert("LA"), np.float64)
    except UserError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"{source}: {too_large}") from None
    except UnidentifiedImageError:
        raise UserError(f"{source}: neither PNG nor JPEG") from None
    except Exception as error:  # decoders let through whatever a damaged file makes of them
        raise UserError(f"{source}: a damaged image ({error or type(error).__name__})") from error
    return _on_paper(pixels[..., 0], pixels[..., 1] / 255)


def bounds(picture: npt.NDArray[Any]) -> tuple[slice, slice]:
    """Of what is not 0 in it, by rows and columns."""
    rows, columns = (np.flatnonzero(picture.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _on_paper(grey: Grey, alpha: Grey) -> Grey:
    if not alpha.any():
        return np.full_like(grey, 255)
    inside = bounds(alpha)
    if alpha[inside].all():
        grey, alpha = grey[inside], alpha[inside]
    paper = 255 if np.average(grey, weights=alpha) < 128 else 0
    return alpha * grey + (1 - alpha) * paper
