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


def interval(values: Values, level: float = 0.95) -> tuple[float, float]:
    """Student-t confidence interval of the mean; (nan, nan) below two values."""
    from scipy import stats

    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * std(values) / np.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def rank_sum(ours: Values, theirs: Values) -> float:
    """Two-sided p of the unpaired rank-sum test (Mann & Whitney 1947), exact with ties where runs are few."""
    from scipy import stats

    n, m = len(ours), len(theirs)
    if comb(n + m, n) > EXACT_UP_TO:
        return float(stats.mannwhitneyu(ours, theirs, alternative="two-sided").pvalue)

    def distance(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.abs(np.mean(a, axis=axis) - np.mean(b, axis=axis))

    ranks = stats.rankdata([*ours, *theirs])  # of ranks, so that ±inf counts as worst and not as nan
    test = stats.permutation_test(
        (ranks[:n], ranks[n:]), distance, n_resamples=EXACT_UP_TO + 1, alternative="greater", vectorized=True
    )
    return float(test.pvalue)


def signed_rank(ours: Values, theirs: Values) -> float:
    """Two-sided p of the paired signed-rank test (Wilcoxon 1945), exact where pairs are few."""
    from scipy import stats

    differences = np.subtract(ours, theirs)
    if not np.any(differences):
        return 1.0
    test: Any = stats.wilcoxon(differences, method="exact" if len(differences) <= 25 else "auto")
    return float(test.pvalue)


def equivalence(ours: Values, theirs: Values, margin: float) -> float:
    """p of two one-sided Welch tests that the means differ by less than `margin`  (Schuirmann 1987)."""
    from scipy import stats

    def above(a: Values, b: Values) -> float:  # of "mean(a) + margin is not above mean(b)"
        if max(std(a), std(b)) < 1e-9 * margin:  # Welch's statistic would be 0 / 0 or nearly so
            return 0.0 if mean(a) + margin > mean(b) else 1.0
        test: Any = stats.ttest_ind(np.add(a, margin), b, equal_var=False, alternative="greater")
        return float(test.pvalue)

    return max(above(ours, theirs), above(theirs, ours))


def differs_from_reported(values: Values, reported_mean: float, reported_std: float | None, runs: int | None) -> float:
    """Two-sided p that our mean and a printed one differ: Welch's test, or one-sample where no spread is printed.

    nan below two values, or where ours do not vary.
    """
    from scipy import stats

    if len(values) < 2 or std(values) == 0:
        return float("nan")
    if reported_std is None or runs is None or runs < 2:
        test: Any = stats.ttest_1samp(values, reported_mean)
    else:
        ours = (mean(values), std(values), len(values))
        test = stats.ttest_ind_from_stats(*ours, reported_mean, reported_std, runs, equal_var=False)
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
