"""Claim, Verdict: what a paper says as pure data, and how our runs judge it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import comb
from typing import Literal, NamedTuple

import numpy as np

from relujax import statistics
from relujax.errors import InputError
from relujax.statistics import mean
from relujax.trial import RunResult

Results = Mapping[str, Sequence[RunResult]]  # row label → its runs, by seed
Epoch = Literal["last", "best"]  # the best on the images that the metric is of, as some papers print it

LEVEL = 0.05  # family-wise over the comparisons of one claim, by Holm's method


class Verdict(Enum):
    """What our runs say of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided"  # too few runs for the test to reach its level
    NOT_RUN = "not run"
    REHEARSAL = "rehearsal"  # shortened, or on stand-in data: never compared with the paper


@dataclass(frozen=True, kw_only=True)
class Beats:
    """`row` ends with a smaller `metric` (an error, a loss, a time) than each of `others`, by more than `by`.

    `paired` compares runs of the same seed by the signed-rank test, as a paper may; else the rank-sum test. `exact` is
    for numbers without chance in them, which are compared as they are. Runs that diverged are the worst, or left out
    where the claim is about those that did not.
    """

    row: str
    others: tuple[str, ...]
    metric: str
    epoch: Epoch = "last"
    by: float = 0.0  # in the metric's unit
    paired: bool = False
    exact: bool = False
    diverged: Literal["worst", "left out"] = "worst"

    def score(self, run: RunResult) -> float:
        return run.at(self.metric, self.epoch)

    @property
    def quantity(self) -> str:
        by = f", more than {self.by:g} apart" if self.by else ""
        return _ended(self.metric, self.epoch) + by


@dataclass(frozen=True, kw_only=True)
class StaysNearest:
    """`metric` of `row` stays nearer to `target` than that of each of `others`: its mean distance over all epochs."""

    row: str
    others: tuple[str, ...]
    metric: str
    target: float = 0.0

    def score(self, run: RunResult) -> float:
        return float(np.mean(np.abs(run.curve(self.metric) - self.target)))

    @property
    def quantity(self) -> str:
        return f"distance of {_words(self.metric)} from {self.target:g}, mean over epochs"


@dataclass(frozen=True, kw_only=True)
class FallsFastest:
    """`metric` of `row` decreases more rapidly than in `others`: its mean over the first epochs is smaller.

    Runs that are shorter than `epochs` are compared over the epochs that they have.
    """

    row: str
    others: tuple[str, ...]
    metric: str
    epochs: int

    def score(self, run: RunResult) -> float:
        return float(np.mean(run.curve(self.metric)[: self.epochs]))

    @property
    def quantity(self) -> str:
        if self.epochs == 1:
            return f"{_words(self.metric)} after the first epoch"
        return f"{_words(self.metric)}, mean over the first {self.epochs} epochs"


@dataclass(frozen=True, kw_only=True)
class ReachesFirst:
    """`metric` of `row` is at most `value` after fewer epochs than in each of `others`; a run that never is has ∞."""

    row: str
    others: tuple[str, ...]
    metric: str
    value: float

    def score(self, run: RunResult) -> float:
        reached = np.flatnonzero(run.curve(self.metric) <= self.value)
        return float(reached[0] + 1) if reached.size else np.inf

    @property
    def quantity(self) -> str:
        return f"epochs until {_words(self.metric)} is at most {self.value:g}"


@dataclass(frozen=True, kw_only=True)
class LessVariance:
    """The units' `probe` value varies less over the epochs in `row`: mean over units of the variance over epochs."""

    row: str
    others: tuple[str, ...]
    probe: str
    of: str = "value"  # "value" of each epoch, or its "change" from epoch to epoch

    def score(self, run: RunResult) -> float:
        return float(np.mean(variance_over_epochs(run, self.probe, self.of)))

    @property
    def quantity(self) -> str:
        return f"variance over epochs of the {self.of} of {_words(self.probe)}, mean over units"


@dataclass(frozen=True, kw_only=True)
class Near:
    """`metric` of `row` and `other` are the same up to ± `margin` (in the metric's unit: 0.005 is half a percent)."""

    row: str
    other: str
    metric: str
    margin: float
    epoch: Epoch = "last"

    def score(self, run: RunResult) -> float:
        return run.at(self.metric, self.epoch)


@dataclass(frozen=True, kw_only=True)
class Below:
    """`metric` of `row` is below `value`, a number that the paper names or another published (in the metric's unit).

    `exact` is for a number without chance in it, which is compared as it is.
    """

    row: str
    metric: str
    value: float
    epoch: Epoch = "last"
    exact: bool = False

    def score(self, run: RunResult) -> float:
        return run.at(self.metric, self.epoch)


@dataclass(frozen=True, kw_only=True)
class Diverges:
    """The runs of `row` do not learn: `metric` is never below `never_below`, be it that a loss is no number before."""

    row: str
    metric: str = "train_error"
    never_below: float = 0.85  # guessing among ten classes errs in 0.9

    def holds(self, run: RunResult) -> bool:
        return not np.any(run.curve(self.metric) < self.never_below)

    @property
    def quantity(self) -> str:
        return f"diverged or kept {_words(self.metric)} at {self.never_below:g} or more"


@dataclass(frozen=True, kw_only=True)
class Learns:
    """The runs of `row` learn: `metric` is below `below` after some epoch, and no loss is not a number."""

    row: str
    metric: str = "train_error"
    below: float = 0.85

    def holds(self, run: RunResult) -> bool:
        return run.status != "diverged" and bool(np.any(run.curve(self.metric) < self.below))

    @property
    def quantity(self) -> str:
        return f"brought {_words(self.metric)} below {self.below:g}"


Comparison = Beats | StaysNearest | FallsFastest | ReachesFirst | LessVariance


@dataclass(frozen=True, kw_only=True)
class Widens:
    """The lead that `narrow` claims of a row over one other is larger between the rows of `wide`, say at more depth.

    Scores of the same seed are subtracted, and the gaps compared by the rank-sum test. What is smaller than nothing is
    no lead: in the median of `wide` the row has to be `ahead`, unless the claim is of a deficit that shrinks.
    """

    narrow: Beats | FallsFastest
    wide: Beats | FallsFastest  # of other rows, otherwise the same
    ahead: bool = True

    def __post_init__(self) -> None:
        rows = {"row": self.narrow.row, "others": self.narrow.others}
        if len(rows_of(self)) != 4 or replace(self.wide, **rows) != self.narrow:
            raise InputError(f"Widens compares two leads over one row each that differ in their rows alone; got {self}")

    def score(self, run: RunResult) -> float:
        return self.narrow.score(run)


Claim = Comparison | Near | Below | Widens | Diverges | Learns


@dataclass(frozen=True, kw_only=True)
class Stated:
    """A claim with the words in which the paper makes it; of numbers in the words, the table says how near ours are."""

    words: str
    claim: Claim


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on one claim, and the numbers behind it."""

    stated: Stated
    verdict: Verdict
    finding: str  # one sentence with means, n and p
    as_claimed: bool | None = None  # whether the numbers point the way of the claim, however sure; None: no numbers
    p_value: float | None = None


def judge(stated: Stated, results: Results, rehearsal: Sequence[str] = ()) -> Judgement:
    """The verdict on a claim: two-sided tests on the runs, Holm-corrected over the rows that it compares.

    A claim that no test on this many runs could support is UNDECIDED; one that could have been supported and was not is
    NOT_REPRODUCED, whether the difference points the other way or is within chance.
    """
    claim = stated.claim
    rows = rows_of(claim)
    ended = {row: [run for run in results.get(row, ()) if run.status != "unfinished"] for row in rows}
    scores = {row: _scores(claim, ended[row]) for row in rows}
    if missing := [row for row in rows if len(ended[row]) == 0]:
        return Judgement(stated=stated, verdict=Verdict.NOT_RUN, finding=f"no finished run of {', '.join(missing)}")
    if missing := [row for row in rows if len(scores[row]) == 0]:
        verdict = Verdict.REHEARSAL if rehearsal else Verdict.UNDECIDED
        why = "all runs diverged" if all(r.status == "diverged" for r in ended[missing[0]]) else "too few epochs"
        return Judgement(stated=stated, verdict=verdict, finding=f"{why} in {', '.join(missing)}")
    match claim:
        case Diverges() | Learns():
            outcome = _judge_most(claim, scores[claim.row])
        case Near():
            outcome = _judge_nearness(claim, scores[claim.row], scores[claim.other])
        case Below():
            outcome = _judge_below(claim, scores[claim.row])
        case Widens():
            outcome = _judge_widening(claim, ended)
        case _:
            outcome = _judge_comparison(claim, ended, scores)
    if rehearsal:
        verdict = Verdict.REHEARSAL
    elif not outcome.decided:
        verdict = Verdict.UNDECIDED
    else:
        sure = getattr(claim, "exact", False) or (outcome.p_value is not None and outcome.p_value <= LEVEL)
        verdict = Verdict.REPRODUCED if outcome.as_claimed and sure else Verdict.NOT_REPRODUCED
    return Judgement(
        stated=stated,
        verdict=verdict,
        finding=outcome.finding,
        as_claimed=outcome.as_claimed,
        p_value=outcome.p_value,
    )


def rows_of(claim: Claim) -> tuple[str, ...]:
    """The rows that a claim speaks of, its subject first."""
    match claim:
        case Diverges() | Learns() | Below():
            return (claim.row,)
        case Near():
            return (claim.row, claim.other)
        case Widens():
            return (*rows_of(claim.narrow), *rows_of(claim.wide))
        case _:
            return (claim.row, *claim.others)


def variance_over_epochs(run: RunResult, probe: str, of: str) -> np.ndarray:
    """Variance over epochs of each unit's value, or of its change from one epoch to the next: (units,)."""
    values = run.unit_values.get(probe, np.zeros((0, 1)))  # runs may be copied without what their probes saw
    if of == "change":
        values = np.diff(values, axis=0)
    return np.var(values, axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)


class _Outcome(NamedTuple):
    decided: bool  # whether a test of so many runs can decide
    as_claimed: bool
    finding: str
    p_value: float | None


def _judge_comparison(claim: Comparison, ended: Results, scores: Mapping[str, np.ndarray]) -> _Outcome:
    """Does `row` score lower than each of the others, by the ranks that the test compares?

    Holm's method is stricter than a claim needs that has to hold against all of the others.
    """
    by, exact = (claim.by, claim.exact) if isinstance(claim, Beats) else (0.0, False)
    if isinstance(claim, Beats) and claim.paired:
        pairs = [_pairs(claim, ended[claim.row], ended[other]) for other in claim.others]
        samples = [(np.add(ours, by), theirs) for ours, theirs in pairs]
        test = statistics.signed_rank
        ranks = [statistics.signed_ranks(*sample) for sample in samples]
        lower = all(np.sum(signed) < 0 for signed in ranks)
        reachable = [statistics.smallest_signed_rank_p(len(signed)) for signed in ranks]
    else:
        samples = [(scores[claim.row] + by, scores[other]) for other in claim.others]
        test = statistics.rank_sum
        lower = all(statistics.rank_shift(*sample) < 0 for sample in samples)
        reachable = [statistics.smallest_rank_sum_p(len(ours), len(theirs)) for ours, theirs in samples]
    decided = exact or max(statistics.holm(reachable)) <= LEVEL
    p_value = max(statistics.holm([test(*sample) for sample in samples])) if decided and not exact else None
    if isinstance(claim, FallsFastest):  # say of how many epochs it is, where a rehearsal has fewer
        claim = replace(
            claim, epochs=min(claim.epochs, max(len(run.history) for runs in ended.values() for run in runs))
        )
    means = {row: mean(values) for row, values in scores.items()}
    listed = ", ".join(f"{row} {means[row]:.4g} (n={len(scores[row])})" for row in scores)
    direction = "as claimed" if lower else "not as claimed"
    if lower != all(means[claim.row] + by < means[other] for other in claim.others):
        direction += " by ranks"
    support = "no chance in it" if exact else "too few runs for a test" if p_value is None else f"p = {p_value:.2g}"
    return _Outcome(decided, lower, f"{claim.quantity}: {listed}; {direction}, {support}", p_value)


def _judge_nearness(claim: Near, ours: np.ndarray, theirs: np.ndarray) -> _Outcome:
    """Two one-sided Welch tests (Schuirmann 1987): is the difference within the margin on both sides?

    Undecided where runs scatter so much that even equal means would fail them, unless it is surely beyond the margin.
    """
    gap = f"{_ended(claim.metric, claim.epoch)}: {claim.row} {mean(ours):.4g} (n={len(ours)}), "
    gap += f"{claim.other} {mean(theirs):.4g} (n={len(theirs)}); "
    if not np.isfinite([*ours, *theirs]).all():
        return _Outcome(True, False, f"{gap}not as claimed, for runs diverged", None)
    near = abs(mean(ours) - mean(theirs)) <= claim.margin
    gap += f"{'' if near else 'not '}within ± {claim.margin:g}, "
    if min(len(ours), len(theirs)) < 2:
        return _Outcome(False, near, f"{gap}too few runs for a test", None)
    p_value = statistics.equivalence(ours, theirs, claim.margin)
    reachable = statistics.equivalence(ours - mean(ours), theirs - mean(theirs), claim.margin)
    apart = statistics.apart(ours, theirs, claim.margin)
    return _Outcome(min(reachable, apart) <= LEVEL, near, f"{gap}p = {p_value:.2g}", p_value)


def _judge_below(claim: Below, ours: np.ndarray) -> _Outcome:
    """Student's test of one sample: is the mean below the value?"""
    finding = f"{_ended(claim.metric, claim.epoch)}: {claim.row} {mean(ours):.4g} (n={len(ours)})"
    if not np.isfinite(ours).all():
        return _Outcome(True, False, f"{finding}; not as claimed, for runs diverged", None)
    below = mean(ours) < claim.value
    finding += f"; {'' if below else 'not '}below {claim.value:g}, "
    if claim.exact:
        return _Outcome(True, below, f"{finding}no chance in it", None)
    if not statistics.std(ours) > 0:
        return _Outcome(False, below, f"{finding}no test of one run, or of equal ones", None)
    p_value = statistics.differs_from_constant(ours, claim.value)
    return _Outcome(True, below, f"{finding}p = {p_value:.2g}", p_value)


def _judge_widening(claim: Widens, ended: Results) -> _Outcome:
    """Is the other row further above the row in the second pair than in the first?"""
    gaps, told = [], []
    for lead in (claim.narrow, claim.wide):
        row, other = rows_of(lead)
        ours, theirs = _pairs(claim, ended[row], ended[other])
        if not ours:
            return _Outcome(False, False, f"no seed ended in both {row} and {other}", None)
        gaps.append(np.round(np.subtract(theirs, ours), 12))  # equal gaps are ties, whatever the floats say
        told.append(f"{other} less {row} {mean(gaps[-1]):.3g} (n={len(ours)})")
    finding = f"{claim.narrow.quantity}: {', '.join(told)}"
    wider = statistics.rank_shift(*gaps) < 0 and bool(not claim.ahead or np.median(gaps[1]) > 0)
    direction = "as claimed" if wider else "not as claimed"
    if statistics.smallest_rank_sum_p(*map(len, gaps)) > LEVEL:
        return _Outcome(False, wider, f"{finding}; {direction}, too few runs for a test", None)
    p_value = statistics.rank_sum(*gaps)
    return _Outcome(True, wider, f"{finding}; {direction}, p = {p_value:.2g}", p_value)


def _judge_most(claim: Diverges | Learns, held: np.ndarray) -> _Outcome:
    """One-sided binomial test: does it hold of more than half of such runs? Five of five give p = 0.031."""
    n, count = len(held), int(held.sum())
    p_value = sum(comb(n, k) for k in range(count, n + 1)) / 2**n
    finding = f"{count} of {n} runs of {claim.row} {claim.quantity}; p = {p_value:.2g}"
    return _Outcome(1 / 2**n <= LEVEL, count > n / 2, finding, p_value)


def _scores(claim: Claim, runs: Sequence[RunResult]) -> np.ndarray:
    """One score per finished run; a diverged run scores worst, so that it cannot make its row look better."""
    if isinstance(claim, Diverges | Learns):
        known = [run for run in runs if run.status == "diverged" or np.isfinite(run.curve(claim.metric)).any()]
        return np.array([claim.holds(run) for run in known], bool)
    if isinstance(claim, Beats) and claim.diverged == "left out":
        runs = [run for run in runs if run.status != "diverged"]
    scores = [_score(claim, run) for run in runs]
    return np.array([score for score in scores if not np.isnan(score)])


def _score(claim: Comparison | Near | Below | Widens, run: RunResult) -> float:
    return np.inf if run.status == "diverged" else claim.score(run)


def _pairs(
    claim: Beats | Widens, ours: Sequence[RunResult], theirs: Sequence[RunResult]
) -> tuple[list[float], list[float]]:
    """Scores of the seeds that ended in both rows, a diverged run's infinite; two of them cannot be subtracted."""
    other = {run.seed: _score(claim, run) for run in theirs}
    both = [(_score(claim, run), other[run.seed]) for run in ours if run.seed in other]
    both = [pair for pair in both if np.isfinite(pair).any() and not np.isnan(pair).any()]
    return [a for a, _ in both], [b for _, b in both]


def _ended(metric: str, epoch: Epoch) -> str:
    """The metric and when it is read: "test error after the last epoch"."""
    if not metric.startswith(("train_", "validation_", "test_")):  # measured once
        return _words(metric)
    if metric.startswith("train_"):  # the mean over an epoch's steps
        return _words(metric) + (" over the last epoch" if epoch == "last" else " over the best epoch")
    return _words(metric) + (" after the last epoch" if epoch == "last" else " at the best epoch")


def _words(name: str) -> str:
    return name.replace("_", " ")
