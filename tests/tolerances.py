"""How far two computations of one thing may lie apart, and why. |a - b| <= absolute + relative * |b|."""

from typing import NamedTuple

import numpy as np

from mlp_compare.parity.bound_table import DRIFT_FLOAT64


class Tolerance(NamedTuple):
    relative: float
    absolute: float

    def assert_close(self, actual: object, expected: object, name: str = "") -> None:
        a, b = np.asarray(actual), np.asarray(expected)
        np.testing.assert_allclose(a, b, rtol=self.relative, atol=self.absolute, err_msg=name)


ENTROPY = {
    # Sums of up to 20 terms, each a product with a logarithm that is good to an ulp or two.
    "float64": Tolerance(1e-12, 1e-12),
    "float32": Tolerance(1e-6, 1e-6),
}
FORWARD_BACKWARD = {
    # Dot products of up to 784 terms, in another order of summation: sqrt(784) eps is 6e-15 and 3e-6; three layers.
    "float64": Tolerance(1e-12, 1e-14),
    "float32": Tolerance(1e-4, 1e-6),
}
PRODUCTS_FLOAT32 = Tolerance(0.0, 1e-5)
"""Sums of up to 40 terms of size 1, in any order: 4 sqrt(40) eps is 3e-6; rounding one to bfloat16 is 1e-2."""
EXPORTED = {
    # In parts of the largest logit: 4 sqrt(784) eps, sums of up to 784 products in another order, as in
    # mlp_compare/parity/bound_table.py. Float64 would show a constant that was rounded to float32, by 1e-8.
    "float64": Tolerance(0.0, 4 * 784**0.5 * 2**-52),
    "float32": Tolerance(0.0, 4 * 784**0.5 * 2**-23),
}
UPDATE = {
    # A dozen steps of three roundings each on one number.
    "float64": Tolerance(1e-14, 1e-15),
    "float32": Tolerance(1e-5, 1e-7),
}
ADAM_UPDATE = {
    # 200 steps of a few roundings each, all of them of changes below 0.03.
    "float64": Tolerance(1e-14, 1e-14),
    "float32": Tolerance(1e-5, 1e-5),
}
EXACT_ADAM_STEP = Tolerance(5e-7, 0.0)
"""A few roundings of float32; 1 - 0.999 in float32 is 1.3e-5 off."""
MODEL_FLOAT64 = Tolerance(1e-13, 1e-15)
"""One pass of a small model, a dozen sums of up to 30 terms after one another; also a dozen steps by two programs."""
SIGN_FLIP_EFFECT = Tolerance(0.0, 1e-8)
"""The two starts are 2e-9 apart, through slopes of a few."""
RUN_FLOAT64 = Tolerance(0.0, 1e-12)
"""Test loss after 600 steps from one start: a prototype's parameters stayed within 7e-16 over 3,000 steps."""
DEVICES_FLOAT64 = Tolerance(0.0, DRIFT_FLOAT64)
"""One run on other devices or in other processes: sums of a batch come in another order, and nothing else differs."""
DRAWN = Tolerance(0.0, 1e-6)
"""Curves on a server and in a page against events.jsonl: far below a pixel, and far above what JSON rounds."""
PRINTED = Tolerance(0.0, 5e-7)
"""Against a figure that is known to six decimals."""
INITIAL_STD = 0.01
"""Relative: the standard deviation of n = 156,800 normal draws scatters by 1 / sqrt(2 n) = 0.18 %; five of these."""
SAME_DISTRIBUTION = 1e-4
"""Kolmogorov-Smirnov: seeds are fixed, so that a p-value under this is a wrong scheme and never bad luck."""
PROBABILITIES = Tolerance(0.0, 1e-6)
"""Ten float32 softmaxes against 1, or those of two frameworks for one image: a few eps, and the logits' rounding."""
PERCENTAGES = 0.55
"""Of ten shares that are each rounded to a tenth of a percent, against 100: ten halves of that, and rounding."""
GREY_LEVELS = {"PNG": 1e-9, "JPEG": 4.0}
"""Of 255, in the mean: an alpha's blend in float64; what JPEG's default quality takes from sharp edges."""
OFF_CENTRE = Tolerance(0.0, 0.1)
"""Pixels: the measured slack is a tenth, and what is largest moves with grey levels that are rounded or cut."""
EXACT_FIT = 1e-6
"""Relative: costs from timings that the model made without noise, through least squares in float64."""
NOISY_FIT = 0.2
"""Relative: costs from two dozen timings with 3 % of noise; a formula that is wrong is off by a factor."""
WRITTEN = 1e-3
"""Relative: constants that are written with three digits."""
PATCHED = {"float64": 1e-12, "float32": 1e-5}
"""Relative to the largest value, of a model of three layers: sums of up to 72 terms in another order, a dozen times."""
