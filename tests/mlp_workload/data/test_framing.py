"""How a data set draws its images, measured from them, and pictures that are made alike."""

import math
import tracemalloc

import numpy as np
import pytest
from helpers import FASHION, make_digits
from PIL import Image
from tolerances import OFF_CENTRE

from mlp_workload.data import load
from mlp_workload.data.framing import MNIST, Framing, ImageFormat, measure
from mlp_workload.predict.digit import find_digit, is_already


def cut(images):
    return images[:, 4:24, 4:24]


def low(images):
    """On the floor of an image that is taller than wide, without a margin."""
    out = np.zeros((len(images), 30, 22), np.uint8)
    for image, field in zip(images, out, strict=True):
        rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        digit = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        left = (22 - digit.shape[1]) // 2
        field[30 - digit.shape[0] :, left : left + digit.shape[1]] = digit
    return out


VARIANTS = {
    "MNIST": (lambda x: x, MNIST),
    "dark on light": (lambda x: 255 - x, Framing(255, 0, 20, "mass", (14, 14), 0.6)),
    "grey on grey": (lambda x: (200 - x // 2).astype(np.uint8), Framing(200, 73, 20, "mass", (14, 14), 0.6)),
    "two levels": (lambda x: (x > 127).astype(np.uint8), Framing(0, 1, 20, "mass", (14, 14), 1.2)),
    "padded": (lambda x: np.pad(x, ((0, 0), (2, 6), (10, 8))), Framing(0, 255, 20, "mass", (16, 24), 0.6)),
    "cut": (cut, Framing(0, 255, 20, "mass", (10, 10), 1.7)),
}


NEAR = 10
"""Digits."""


@pytest.fixture(scope="module")
def some(mnist):
    return mnist.train.images[:2000]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_framing_is_measured(variant, some):
    change, expected = VARIANTS[variant]
    found = measure(change(some))
    assert (found.paper, found.ink, found.box, found.centred_by) == (
        expected.paper, expected.ink, expected.box, expected.centred_by,
    )  # fmt: skip
    assert found.centre == expected.centre
    OFF_CENTRE.assert_close(found.off_centre, expected.off_centre)


def test_large_images_take_little_memory():
    """A view on one image: what is counted is what measuring takes, 8 bytes for each pixel of a sample of 100."""
    image = np.zeros((512, 512), np.uint8)
    image[200:300, 220:290] = 255
    tracemalloc.start()
    found = measure(np.broadcast_to(image, (100, 512, 512)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.box, found.paper, found.ink) == (100, 0, 255)
    assert peak < 200e6


def test_mnists_own_is_exactly_the_constant(mnist):
    assert measure(mnist.train.images) == MNIST
    assert mnist.image_format == ImageFormat((28, 28), False, MNIST)


def test_a_box_may_be_what_is_centred(some):
    found = measure(low(some))
    assert (found.centred_by, found.box) == ("box", 20)
    assert found.centre[1] == 10.5


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_fills_its_images():
    images = load(f"idx:{FASHION}").train.images
    found = measure(images)
    assert (found.paper, found.ink, found.box, found.centred_by) == (0, 255, 28, "box")
    own = sum(is_already(image.astype(float), (28, 28), found) for image in images[:500])
    assert own >= 490, "the set's own images are taken pixel for pixel"


@pytest.mark.parametrize(
    "images",
    [
        make_digits().train.images,
        np.zeros((5, 4, 4), np.uint8),
        np.random.default_rng(0).integers(0, 256, (50, 9, 9), np.uint8),
    ],
    ids=["patterns", "blank", "noise"],
)
def test_images_without_an_even_paper_have_none(images):
    assert measure(images) is None


@pytest.mark.parametrize("variant", [*VARIANTS, "low"])
def test_a_page_becomes_what_the_set_draws(variant, some):
    """Digits dark on a white page, 112x112: of the set's own images each is then nearest to its own."""
    change = low if variant == "low" else VARIANTS[variant][0]
    own, framing = change(some).astype(float), measure(change(some))
    found = []
    for image, digit in zip(own[:NEAR], some[:NEAR], strict=True):
        assert is_already(image, image.shape, framing)
        np.testing.assert_array_equal(find_digit(image, image.shape, framing), image)
        page = np.full((112, 112), 255.0)
        page[12:96, 20:104] -= np.asarray(Image.fromarray(digit).resize((84, 84), Image.Resampling.BICUBIC))
        found.append(find_digit(page, image.shape, framing).astype(float))
        assert is_already(found[-1], image.shape, framing)
    distances = np.abs(np.array(found)[:, None] - own[:NEAR]).sum(axis=(2, 3))
    assert (distances.argmin(axis=1) == np.arange(NEAR)).sum() >= NEAR - 1, "a shift by a pixel confuses one"


GOOD = ImageFormat((28, 28), False, MNIST).to_json()


@pytest.mark.parametrize("framing", [MNIST, None])
def test_the_record_comes_back(framing):
    images = ImageFormat((28, 20), True, framing)
    assert ImageFormat.from_json(images.to_json()) == images


@pytest.mark.parametrize(
    "change",
    [
        {"shape": None}, {"shape": [28]}, {"shape": [28.0, 28]}, {"shape": [0, 28]}, {"transposed": 1}, {"framing": 3},
        {"framing": {}}, *({"framing": GOOD["framing"] | wrong} for wrong in (
            {"paper": -1}, {"paper": "x"}, {"ink": 0}, {"ink": math.nan}, {"ink": 256}, {"box": 0}, {"box": 29},
            {"box": 2.0}, {"centred_by": "luck"}, {"centre": [14]}, {"centre": [14, 1e9]}, {"centre": [14, math.nan]},
            {"off_centre": math.inf}, {"off_centre": None}, {"paper": 10**400},
        )),
    ],
)  # fmt: skip
def test_a_record_that_makes_no_sense_is_refused(change):
    with pytest.raises(ValueError, match="not an image format"):
        ImageFormat.from_json(GOOD | change)


@pytest.mark.parametrize("value", [None, 3, [], "x", {}])
def test_what_is_no_record_is_refused(value):
    with pytest.raises(ValueError, match="not an image format"):
        ImageFormat.from_json(value)
