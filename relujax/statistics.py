"""Mean, spread and rank tests of a handful of runs: thin over scipy.stats, exact where runs are few."""

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np

Values = Sequence[float] | np.ndarray

EXACT_UP_TO = 20_000  # arrangements to enumerate; 8 against 8 runs have 12,870


def mean(values: Values) -> float:
    """Arithmetic mean; nan of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")


def std(values: Values) -> float:
    """Sample standard deviation (n − 1); nan below two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def rank_shift(ours: Values, theirs: Values) -> float:
    """Mean rank of ours minus that of theirs: what `rank_sum` tests; negative where ours are the smaller ones."""
    from scipy import stats

    ranks = stats.rankdata([*ours, *theirs])  # of ranks, so that ±inf counts as worst and not as nan
    return float(np.mean(ranks[: len(ours)]) - np.mean(ranks[len(ours) :]))


def rank_sum(ours: Values, theirs: Values) -> float:
    """Two-sided p of the unpaired rank-sum test (Mann & Whitney 1947), exact with ties where runs are few."""
    from scipy import stats

    n, m = len(ours), len(theirs)
    ranks = stats.rankdata([*ours, *theirs])
    if comb(n + m, n) > EXACT_UP_TO:
        return float(stats.mannwhitneyu(ranks[:n], ranks[n:], alternative="two-sided", method=_method(ranks)).pvalue)

    def distance(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.abs(np.mean(a, axis=axis) - np.mean(b, axis=axis))

    test = stats.permutation_test(
        (ranks[:n], ranks[n:]), distance, n_resamples=EXACT_UP_TO + 1, alternative="greater", vectorized=True
    )
    return float(test.pvalue)


def signed_ranks(ours: Values, theirs: Values) -> np.ndarray:
    """Ranks of |ours − theirs| with the difference's sign, pairs that are equal left out: (pairs,).

    Their sum, which `signed_rank` tests, is negative where ours are the smaller ones.
    """
    from scipy import stats

    differences = np.round(np.subtract(ours, theirs), 12)  # 0.1302 − 0.1301 and 0.1202 − 0.1201 are a tie
    differences = differences[differences != 0]
    return np.sign(differences) * stats.rankdata(np.abs(differences))


def signed_rank(ours: Values, theirs: Values) -> float:
    """Two-sided p of the paired signed-rank test (Wilcoxon 1945), exact with ties where pairs are few."""
    from scipy import stats

    ranks = signed_ranks(ours, theirs)
    if not len(ranks):
        return 1.0
    if 2 ** len(ranks) > EXACT_UP_TO:
        many: Any = stats.wilcoxon(ranks, method=_method(np.abs(ranks)))
        return float(many.pvalue)

    def distance(signed: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.abs(np.sum(signed, axis=axis))

    test = stats.permutation_test(
        (ranks,),
        distance,
        permutation_type="samples",
        n_resamples=EXACT_UP_TO + 1,
        alternative="greater",
        vectorized=True,
    )
    return float(test.pvalue)


def _method(ranks: np.ndarray) -> str:
    """How scipy is to find the p of many runs: exactly as long as no two are tied."""
    return "exact" if len(np.unique(ranks)) == len(ranks) <= 100 else "asymptotic"


def equivalence(ours: Values, theirs: Values, margin: float) -> float:
    """p of two one-sided Welch tests that the means differ by less than `margin`  (Schuirmann 1987)."""
    return max(_exceeds(ours, theirs, -margin), _exceeds(theirs, ours, -margin))


def apart(ours: Values, theirs: Values, margin: float) -> float:
    """p of one-sided Welch tests that the means differ by more than `margin`."""
    return min(_exceeds(ours, theirs, margin), _exceeds(theirs, ours, margin))


def _exceeds(a: Values, b: Values, by: float) -> float:
    """p of a one-sided Welch test that mean(a) is above mean(b) + `by`, which is not 0."""
    from scipy import stats

    if max(std(a), std(b)) < 1e-9 * abs(by):  # Welch's statistic would be 0 / 0 or nearly so
        return 0.0 if mean(a) > mean(b) + by else 1.0
    test: Any = stats.ttest_ind(np.subtract(a, by), b, equal_var=False, alternative="greater")
    return float(test.pvalue)


def differs_from_reported(values: Values, reported_mean: float, reported_std: float | None, runs: int | None) -> float:
    """Two-sided p that our mean and a printed one differ: Welch's test on the printed spread, else Student's on ours.

    A number without a spread is a mean of `runs`, or one run, that scatters as ours do: t = d / (s √(1/n + 1/runs)).
    nan below two values, or where ours do not vary.
    """
    from scipy import stats

    if len(values) < 2 or std(values) == 0:
        return float("nan")
    if reported_std is None or runs is None or runs < 2:
        error = std(values) * np.sqrt(1 / len(values) + 1 / (runs or 1))
        return float(2 * stats.t.sf(abs(mean(values) - reported_mean) / error, len(values) - 1))
    ours = (mean(values), std(values), len(values))
    test: Any = stats.ttest_ind_from_stats(*ours, reported_mean, reported_std, runs, equal_var=False)
    return float(test.pvalue)


def differs_from_constant(values: Values, constant: float) -> float:
    """Two-sided p that the mean is not `constant`, Student's test of one sample that varies."""
    from scipy import stats

    test: Any = stats.ttest_1samp(values, constant)
    return float(test.pvalue)


def smallest_rank_sum_p(n: int, m: int) -> float:
    """The smallest two-sided p that n against m runs can reach: 2 / C(n + m, n), e.g. 0.0079 for 5 against 5."""
    return min(1.0, 2 / comb(n + m, n))


def smallest_signed_rank_p(n: int) -> float:
    """The smallest two-sided p that n pairs can reach: 2 / 2ⁿ, e.g. 0.0625 for 5."""
    return min(1.0, 2 / 2**n)


def holm(p_values: Values) -> list[float]:
    """Holm's step-down adjustment, in the order given: the family holds its level for all comparisons at once."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
