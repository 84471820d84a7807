from itertools import combinations
from math import comb, inf, isnan, sqrt

import numpy as np
import pytest
from scipy import stats

from relujax.statistics import (
    holm,
    interval,
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


def test_interval_is_students():
    low, high = interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / sqrt(3), 2 + 4.302653 / sqrt(3)))  # t(0.975, 2) = 4.302653


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


def test_equal_runs_show_no_difference():
    assert rank_sum([1, 1, 1], [1, 1, 1]) == 1 and signed_rank([1, 2], [1, 2]) == 1


def test_many_runs_agree_with_the_normal_approximation():
    values = np.random.default_rng(0).normal(size=(2, 40))
    expected = stats.mannwhitneyu(*values, alternative="two-sided").pvalue
    assert comb(80, 40) > 1e9 and rank_sum(*values) == pytest.approx(expected)


def test_holm_steps_down_in_the_order_given():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
