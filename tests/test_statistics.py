from itertools import combinations, product
from math import inf, isnan, sqrt

import numpy as np
import pytest
from scipy import stats

from relujax.statistics import (
    apart,
    differs_from_reported,
    equivalence,
    holm,
    mean,
    rank_sum,
    signed_rank,
    smallest_rank_sum_p,
    smallest_signed_rank_p,
    std,
)


def test_mean_and_std_are_those_of_a_sample():
    assert mean([1, 2, 6]) == 3
    assert std([1, 2, 6]) == pytest.approx(sqrt((4 + 1 + 9) / 2))
    assert isnan(std([1.0])) and isnan(mean([]))


def test_separated_runs_reach_the_smallest_p():
    assert rank_sum([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(2 / 252) == smallest_rank_sum_p(5, 5)
    assert signed_rank([1, 2, 3, 4, 5], [2, 4, 6, 8, 10]) == pytest.approx(0.0625) == smallest_signed_rank_p(5)
    assert smallest_rank_sum_p(3, 3) == 0.1 and smallest_rank_sum_p(1, 1) == 1


@pytest.mark.parametrize(
    "ours, theirs", [([3, 1, 4], [1, 5, 9, 2]), ([1, 1, 2], [1, 2, 2, 3]), ([1, inf, 2], [inf, inf, 3])]
)
def test_rank_sum_counts_every_arrangement_of_the_ranks(ours, theirs):
    ranks, n = stats.rankdata([*ours, *theirs]), len(ours)
    centre = n * (len(ranks) + 1) / 2
    observed = abs(ranks[:n].sum() - centre)
    sums = [abs(ranks[list(chosen)].sum() - centre) for chosen in combinations(range(len(ranks)), n)]
    expected = np.mean([value >= observed - 1e-9 for value in sums])
    assert rank_sum(ours, theirs) == pytest.approx(expected)


@pytest.mark.parametrize("differences", [[-1, 1, 3, 2, 4, 1, 3], [1, 1, 1, -1, 0, 0], [inf, -1, 2, 3, 4]])
def test_signed_rank_counts_every_choice_of_signs(differences):
    kept = np.array([difference for difference in differences if difference])
    ranks = stats.rankdata(np.abs(kept))
    sums = [abs(np.dot(signs, ranks)) for signs in product((-1, 1), repeat=len(ranks))]
    expected = np.mean([value >= abs(np.dot(np.sign(kept), ranks)) - 1e-9 for value in sums])
    assert signed_rank(differences, np.zeros(len(differences))) == pytest.approx(expected)


def test_float_noise_breaks_no_tie():
    theirs = np.array([0.1301, 0.1201, 0.0901, 0.2])
    assert signed_rank(np.add(theirs, [1e-4, -1e-4, 1e-4, -1e-4]), theirs) == 1


def test_a_number_printed_of_one_run_scatters_as_ours_do():
    ours = [6.60, 6.75, 6.42, 6.80, 6.55]
    spread, n = np.std(ours, ddof=1), len(ours)
    expected = 2 * stats.t.sf((np.mean(ours) - 6.30) / (spread * sqrt(1 + 1 / n)), n - 1)
    assert differs_from_reported(ours, 6.30, None, None) == pytest.approx(expected) and expected > 0.1
    of_five = stats.ttest_ind_from_stats(np.mean(ours), spread, n, 6.30, 0.1, 5, equal_var=False).pvalue
    assert differs_from_reported(ours, 6.30, 0.1, 5) == pytest.approx(of_five)


def test_equal_runs_show_no_difference():
    assert rank_sum([1, 1, 1], [1, 1, 1]) == 1 and signed_rank([1, 2], [1, 2]) == 1


def test_many_runs_are_compared_exactly_unless_some_are_tied():
    assert rank_sum(range(10), range(10, 20)) == pytest.approx(smallest_rank_sum_p(10, 10))
    assert signed_rank(range(20), range(1, 41, 2)) == pytest.approx(smallest_signed_rank_p(20))
    values = np.random.default_rng(0).normal(size=(2, 40))
    approximation = stats.mannwhitneyu(*values, alternative="two-sided").pvalue
    assert rank_sum(*values) == pytest.approx(approximation, rel=2e-3) and rank_sum(*values) != approximation
    tied = np.round(values, 1)
    assert rank_sum(*tied) == stats.mannwhitneyu(*tied, alternative="two-sided").pvalue


def test_means_are_apart_or_equivalent_or_neither():
    near, far, wide = [0.1, 0.11, 0.12], [0.5, 0.51, 0.52], [0.0, 0.3, 0.6]
    assert apart(near, far, 0.02) == apart(far, near, 0.02) < 1e-3 < equivalence(near, far, 0.02)
    assert equivalence(near, near, 0.1) < 0.01 < apart(near, near, 0.1)
    assert min(apart(near, wide, 0.02), equivalence(near, wide, 0.02)) > 0.05
    assert (apart([1.0, 1.0], [2.0, 2.0], 0.5), apart([1.0, 1.0], [1.2, 1.2], 0.5)) == (0, 1)


def test_holm_steps_down_in_the_order_given():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_pairs_that_are_equal_take_no_rank():
    """Of ranks 1 to 4, two negative ones of 1 and 2: sums as far from 0 as 4 are 10 of 16."""
    assert signed_rank([0, 0, -1, -2, 3, 4], np.zeros(6)) == pytest.approx(10 / 16)


def test_float_noise_ranks_no_pair_above_another():
    """As many up as down by the same 1e-4: the sum is 0; of six distinct ranks it is odd, which 0 is not."""
    theirs = np.array([0.1301, 0.1201, 0.0901, 0.2, 0.3107, 0.0505])
    assert signed_rank(np.add(theirs, [1e-4, 1e-4, 1e-4, -1e-4, -1e-4, -1e-4]), theirs) == 1


def test_equivalence_has_two_sides_and_lets_the_rows_scatter_each_in_its_own_way():
    """Welch & Satterthwaite by hand; the larger p is that of the side on which the means are nearer to the margin."""
    ours, theirs, margin = [0.10, 0.11, 0.12], [0.10, 0.35, 0.02, 0.25, 0.14, 0.31], 0.15
    errors = [np.var(values, ddof=1) / len(values) for values in (ours, theirs)]
    degrees = sum(errors) ** 2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, (ours, theirs)))
    gap = abs(np.mean(ours) - np.mean(theirs))
    expected = stats.t.sf((margin - gap) / sqrt(sum(errors)), degrees)
    assert equivalence(ours, theirs, margin) == pytest.approx(expected)
    assert equivalence(theirs, ours, margin) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:Precision loss")
def test_one_row_that_does_not_vary_leaves_the_scatter_of_the_other():
    """A test of one sample, then: t = margin / (s / √n) on n − 1 degrees of freedom."""
    constant, wide = [1.0, 1.0, 1.0], [0.6, 1.0, 1.4]
    expected = stats.t.sf(0.3 / (0.4 / sqrt(3)), 2)
    assert (
        equivalence(constant, wide, 0.3) == pytest.approx(expected) == pytest.approx(equivalence(wide, constant, 0.3))
    )


def test_of_runs_that_do_not_vary_nothing_is_said_and_one_printed_run_has_no_spread():
    assert isnan(differs_from_reported([6.5, 6.5, 6.5], 6.3, None, None))
    assert isnan(differs_from_reported([6.5, 6.5, 6.5], 6.3, 0.1, 5))
    ours = [6.60, 6.75, 6.42, 6.80, 6.55]
    assert differs_from_reported(ours, 6.30, 0.1, 1) == differs_from_reported(ours, 6.30, None, 1)
