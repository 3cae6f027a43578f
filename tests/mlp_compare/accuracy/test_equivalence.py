"""The results and the figures behind them, against scipy's tests, simulation and cases done by hand."""

import warnings

import numpy as np
import pytest
from scipy import stats

from mlp_compare.accuracy.equivalence import MARGIN, TWO_HUMP_SEEDS, equivalence, seeds_needed, tost_power

A = [9553, 9555, 9556, 9548, 9558]
B = [9568, 9553, 9573, 9539, 9564]


def test_paired_figures_are_those_of_scipys_t_tests():
    found = equivalence(A, B, paired=True, two_humps=False)
    differences = np.subtract(A, B)
    tests = [
        stats.ttest_1samp(differences, -MARGIN, alternative="greater"),
        stats.ttest_1samp(differences, MARGIN, alternative="less"),
    ]
    assert found.tost_p == pytest.approx(max(test.pvalue for test in tests), rel=1e-12)
    assert found.t_interval == pytest.approx(stats.ttest_1samp(differences, 0).confidence_interval(0.9), rel=1e-12)


@pytest.mark.parametrize(("a", "b"), [(A, B), (B, A), (A, [8656, 7669, 9570, 9449, 9568])])
def test_unpaired_figures_are_those_of_scipys_welch_tests(a, b):
    found = equivalence(a, b, paired=False, two_humps=False)
    a, b = np.array(a), np.array(b)
    tests = [
        stats.ttest_ind(a + MARGIN, b, equal_var=False, alternative="greater"),
        stats.ttest_ind(a - MARGIN, b, equal_var=False, alternative="less"),
    ]
    assert found.tost_p == pytest.approx(max(test.pvalue for test in tests), rel=1e-12)
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert found.t_interval == pytest.approx(welch.confidence_interval(0.9), rel=1e-12)
    assert found.degrees_of_freedom == pytest.approx(welch.df)


def test_figures_done_by_hand():
    found = equivalence([9550, 9560, 9570], [9545, 9565, 9555], paired=True, two_humps=False)
    assert found.difference == pytest.approx(5)  # differences 5 -5 15: deviation 10
    assert found.standard_error == pytest.approx(10 / 3**0.5)
    assert found.means == pytest.approx((9560, 9555))
    assert found.deviations == pytest.approx((10, 10))
    # Student's t with 2 degrees has the distribution function (1 + t / sqrt(2 + t^2)) / 2, here t = 45 / (10 / sqrt 3).
    t = 4.5 * 3**0.5
    assert found.tost_p == pytest.approx((1 - t / (2 + t**2) ** 0.5) / 2)
    # Of three, a resample's mean is -5 once in 27 times, -5/3 or less in 4, and the 5 % quantile lies between.
    assert found.bootstrap_interval == pytest.approx((5 - 20 / 3, 5 + 20 / 3))


def test_an_unpaired_bootstrap_resamples_each_side_for_itself():
    shared = [9000, 9400, 9100, 9300, 9200]
    found = {paired: equivalence(shared, shared, paired=paired, two_humps=False) for paired in (True, False)}
    assert found[True].bootstrap_interval == (0, 0)
    low, high = found[False].bootstrap_interval
    spread = 1.645 * (2 * np.var(shared) / 5) ** 0.5
    assert (low, high) == pytest.approx((-spread, spread), rel=0.1)


NEAR = [9500 + MARGIN, 9510 + MARGIN, 9490 + MARGIN]
FAR = [8000, 9500, 8300, 9500, 9500]
RESULTS = {
    "equal, without a deviation": ([9553] * 5, [9553] * 5, "equivalent within the margin"),
    "two equal pairs": ([9553, 9560], [9553, 9560], "equivalent within the margin"),
    "apart, without a deviation": ([9553] * 5, [9000] * 5, "different"),
    "apart the other way": ([9000] * 5, [9553] * 5, "different"),
    "exactly the margin apart": ([9553] * 5, [9553 - MARGIN] * 5, "the difference is near the margin"),
    "near the margin": (NEAR, [9492, 9512, 9502], "the difference is near the margin"),
    "wide": (FAR, FAR[::-1], "seeds would be needed"),
}


@pytest.mark.parametrize(("a", "b", "result"), RESULTS.values(), ids=RESULTS)
@pytest.mark.parametrize("paired", [True, False])
def test_results(a, b, result, paired):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = equivalence(a, b, paired=paired, two_humps=False)
    assert str(found).endswith(result)
    assert np.isfinite([found.standard_error, found.tost_p, *found.t_interval, *found.bootstrap_interval]).all()


def test_the_number_of_seeds_in_the_result_is_the_one_that_suffices():
    found = equivalence(FAR, FAR[::-1], paired=False, two_humps=False)
    needed = seeds_needed(found.standard_error * 5**0.5, found.degrees_of_freedom / 4)
    assert str(found) == f"N too small to conclude: about {needed:,} seeds would be needed"
    # Of large samples: N = (z(0.95) + z(0.9))^2 (variance + variance) / margin^2, as for any test of means.
    assert needed == pytest.approx((1.6449 + 1.2816) ** 2 * 2 * np.var(FAR, ddof=1) / MARGIN**2, rel=0.01)


DISAGREEMENTS = {
    # Three runs: every resample is within the margin, and the t-test knows how little three runs say.
    "only the bootstrap says equivalent": ([0, 0, 40], True, False),
    # One outlier among twenty: a resample has it three times with a probability of 8 %.
    "only the tests say equivalent": ([0] * 19 + [350], False, True),
    # One outlier among eight: the t-test's symmetric interval reaches across the margin.
    "only the bootstrap says different": ([100] * 7 + [1000], False, False),
}


@pytest.mark.parametrize(("differences", "bootstrap", "tests"), DISAGREEMENTS.values(), ids=DISAGREEMENTS)
def test_a_result_takes_both_the_tests_and_the_bootstrap(differences, bootstrap, tests):
    found = equivalence(np.add(9000, differences), [9000] * len(differences), paired=True, two_humps=False)
    assert (max(map(abs, found.bootstrap_interval)) < MARGIN) is bootstrap
    assert (found.tost_p < 0.05) is tests
    assert bootstrap or tests or found.t_interval[0] < MARGIN < found.bootstrap_interval[0]
    assert found.result == "too few seeds"


def test_few_pairs_need_what_the_deviation_of_their_differences_asks_for():
    differences = [60, -60, 30, -30, 0]
    found = equivalence(np.add(9000, differences), [9000] * 5, paired=True, two_humps=False)
    assert found.seeds_needed == seeds_needed(np.std(differences, ddof=1), 1) == 10


@pytest.mark.parametrize("other", [9553, 9000])
def test_where_there_may_be_two_humps_few_seeds_allow_no_result(other):
    few = equivalence([9553] * (TWO_HUMP_SEEDS - 1), [other] * (TWO_HUMP_SEEDS - 1), paired=True, two_humps=True)
    assert str(few) == "N too small to conclude: about 59 seeds would be needed"
    enough = equivalence([9553] * TWO_HUMP_SEEDS, [other] * TWO_HUMP_SEEDS, paired=True, two_humps=True)
    assert enough.result == ("equivalent" if other == 9553 else "different")
    assert 0.95 ** (TWO_HUMP_SEEDS - 1) > 0.05 > 0.95**TWO_HUMP_SEEDS


@pytest.mark.parametrize(("deviation", "n"), [(20, 3), (30, 5), (60, 10), (60, 20), (200, 150)])
def test_the_power_is_what_a_simulation_finds(deviation, n):
    runs = 20_000
    samples = np.random.default_rng(0).normal(0, deviation, (runs, n))
    statistic = (MARGIN - np.abs(samples.mean(axis=1))) / (samples.std(axis=1, ddof=1) / n**0.5)
    shown = (statistic > stats.t.ppf(0.95, n - 1)).mean()
    power = tost_power(deviation, 1, n)
    assert 0.1 < power < 0.98
    assert power == pytest.approx(shown, abs=4 * (power * (1 - power) / runs) ** 0.5)


def test_welchs_power_is_what_a_simulation_finds():
    runs, n, deviation = 20_000, 8, 35
    one, other = np.random.default_rng(1).normal(0, deviation, (2, runs, n))
    variances = one.var(axis=1, ddof=1), other.var(axis=1, ddof=1)
    degrees = (n - 1) * sum(variances) ** 2 / (variances[0] ** 2 + variances[1] ** 2)
    statistic = (MARGIN - np.abs((one - other).mean(axis=1))) / (sum(variances) / n) ** 0.5
    shown = (statistic > stats.t.ppf(0.95, degrees)).mean()
    assert tost_power(deviation * 2**0.5, 2, n) == pytest.approx(shown, abs=0.03)


@pytest.mark.parametrize("deviation", [0.3, 10, 45, 300, 950])
def test_the_seeds_needed_are_the_fewest(deviation):
    needed = seeds_needed(deviation, 1)
    assert tost_power(deviation, 1, needed) >= 0.8
    assert needed == 2 or tost_power(deviation, 1, needed - 1) < 0.8
