"""Files of pictures: every form is read, and what is none, or no digit, is refused."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pictures import png, seen
from PIL import Image
from tolerances import GREY_LEVELS

from mlp_workload.errors import UserError
from mlp_workload.predict import image_file
from mlp_workload.predict.digit import SHAPE, find_digit


def plain(digit):
    """Dark on white, 100x90."""
    field = np.full((100, 90), 255, np.uint8)
    field[30:58, 40:68] -= digit
    return field


def deep(picture):
    return Image.fromarray(np.minimum(picture.astype(int) * 257 + 100, 2**16 - 1).astype(np.uint16))


def turned(picture, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    return png(Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90), kind, exif=exif)


def animated(picture):
    other = Image.new("L", picture.shape[::-1], 40)
    return png(Image.fromarray(picture), save_all=True, append_images=[other])


INK = Image.new("L", (90, 100))

FORMS = {
    "16 bits": (lambda x: png(deep(x)), 0),
    "16 bits, EXIF": (lambda x: turned(x.astype(np.uint16) * 257, "PNG"), 0),
    "palette": (lambda x: png(Image.fromarray(x).convert("P", palette=Image.Palette.ADAPTIVE)), 0),
    "grey with alpha": (lambda x: png(Image.fromarray(x).convert("LA")), 0),
    "transparent paper": (lambda x: png(Image.merge("LA", [INK, Image.fromarray(255 - x)])), GREY_LEVELS["PNG"]),
    "a transparent margin": (lambda x: png(framed(x)), 0),
    "animated": (animated, 0),
    "EXIF, PNG": (lambda x: turned(x, "PNG"), 0),
    "EXIF, JPEG": (lambda x: turned(x, "JPEG"), GREY_LEVELS["JPEG"]),
    "CMYK, JPEG": (lambda x: png(Image.fromarray(x).convert("CMYK"), "JPEG", quality=95), GREY_LEVELS["JPEG"]),
}  # fmt: skip
"""How a picture is written, and how far, in the mean, its grey levels may be from it then."""


def framed(picture):
    field = Image.new("RGBA", (195, 170))
    field.paste(Image.fromarray(picture).convert("RGBA"), (100, 60))
    return field


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_picture_is_read(form, digits):
    write, allowed = FORMS[form]
    picture = plain(digits[25]).astype(float)
    found = image_file.decode(write(plain(digits[25])), "picture")
    assert found.shape == picture.shape
    assert np.abs(found - picture).mean() <= allowed


def test_light_ink_on_nothing_is_on_black(digits):
    ink = Image.merge("LA", [Image.new("L", (28, 28), 255), Image.fromarray(digits[3])])
    np.testing.assert_array_equal(seen(png(ink)), digits[3])


def bomb(width, height):
    """A PNG of so many pixels in a kilobyte or two."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither PNG nor JPEG"),
        (b"GIF89a" + bytes(50), "neither PNG nor JPEG"),
        (png(np.zeros((5, 5), np.uint8), "GIF"), "neither PNG nor JPEG"),
        (png(np.zeros((50, 50), np.uint8))[:60], "a damaged image"),
        (png(np.zeros((500, 500), np.uint8), "JPEG")[:-100], "a damaged image"),
        (bomb(9000, 9000), "9000x9000, more than 64 million pixels"),
        (bomb(10_000, 10_000), "more than 64 million pixels"),
        (bomb(60_000, 60_000), "more than 64 million pixels"),
        (png(np.full((40, 40), 255, np.uint8)), "no digit"),
        (png(np.full((1, 1), 0, np.uint8)), "no digit"),
        (png(np.full((40, 4000), 255, np.uint8)), "no digit"),
        (png(np.full((4000, 40), 255, np.uint8)), "no digit"),
        (png(np.random.default_rng(0).normal(120, 15, (200, 200)).clip(0, 255).astype(np.uint8)), "no digit"),
        (png(np.linspace(60, 220, 300 * 200).reshape(200, 300).astype(np.uint8)), "no digit"),
        (png(Image.new("RGBA", (30, 30))), "no digit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_picture_of_a_digit_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        seen(content)


@given(content=st.binary(max_size=300), start=st.integers(0, 400), kind=st.sampled_from(["PNG", "JPEG"]))
def test_damaged_files_end_in_one_error_or_an_image(content, start, kind):
    good = png(plain(np.eye(28, dtype=np.uint8) * 255), kind)
    start = min(start, len(good))
    try:
        picture = image_file.decode(good[:start] + content + good[start + len(content) :], "picture")
    except UserError:
        return
    assert picture.ndim == 2
    assert ((picture >= 0) & (picture <= 255)).all()


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_any_picture_becomes_an_image_or_is_blank(picture):
    try:
        image = find_digit(picture.astype(float))
    except UserError:
        return
    assert (image.shape, image.dtype) == (SHAPE, np.uint8)
    assert image.max() > 200
