"""Study, Measurement, Claim, Verdict: a table or figure of a paper as pure data, and how its claims are judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import jax.numpy as jnp
import numpy as np
from jax import Array

from relujax import statistics
from relujax.datasets import DATASETS
from relujax.errors import InputError, unknown
from relujax.trial import RunResult, Trial

Results = Mapping[str, Sequence[RunResult]]  # row label → its runs, by seed


class Verdict(Enum):
    """What our runs say of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided"  # too few runs for the test to reach its level
    NOT_RUN = "not run"
    REHEARSAL = "rehearsal"  # shortened, or on stand-in data: never compared with the paper


@dataclass(frozen=True, kw_only=True)
class Beats:
    """`row` ends with a smaller `metric` (an error or a loss) than each of `others`."""

    row: str
    others: tuple[str, ...]
    metric: str

    def score(self, run: RunResult) -> float:
        return run.last(self.metric)

    @property
    def quantity(self) -> str:
        return f"{_words(self.metric)} after the last epoch"


@dataclass(frozen=True, kw_only=True)
class StaysNearest:
    """Over all epochs, `metric` of `row` stays nearer to `target` than that of each of `others`."""

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
    """`metric` of `row` decreases more rapidly than in `others`: its mean over the first epochs is smaller."""

    row: str
    others: tuple[str, ...]
    metric: str
    epochs: int

    def score(self, run: RunResult) -> float:
        return float(np.mean(run.curve(self.metric)[: self.epochs]))

    @property
    def quantity(self) -> str:
        return f"{_words(self.metric)}, mean over the first {self.epochs} epochs"


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


def variance_over_epochs(run: RunResult, probe: str, of: str) -> np.ndarray:
    """Variance over epochs of each unit's value, or of its change from one epoch to the next: (units,)."""
    values = run.unit_values[probe]
    if of == "change":
        values = np.diff(values, axis=0)
    return np.var(values, axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)


def _words(name: str) -> str:
    return name.replace("_", " ")


Claim = Beats | StaysNearest | FallsFastest | LessVariance


@dataclass(frozen=True, kw_only=True)
class Stated:
    """A claim with the words in which the paper makes it."""

    words: str
    claim: Claim


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A panel of curves over epochs: one line per row and metric, mean ± std over runs."""

    metrics: tuple[str, ...]
    label: str  # of the vertical axis, with its unit
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A panel with the distribution over units of a probe's variance over epochs, all runs of a row pooled."""

    probe: str
    of: str
    label: str


@dataclass(frozen=True)
class Reported:
    """The paper's printed number of a row."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:g}" if self.std is None else f"{self.mean:g} ± {self.std:g}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """One table or figure that needs training."""

    source: str  # "ELU, Fig. 2"
    question: str  # one sentence, ends with "?"
    trials: Mapping[str, Trial]  # row label → trial, in the order of the page
    metrics: tuple[str, ...]  # columns of the result table; the first is the one that the paper prints
    claims: tuple[Stated, ...] = ()
    panels: tuple[Curves | Distribution, ...] = ()
    reported: Mapping[str, Reported] = field(default_factory=dict)
    runs: int = 5
    rehearsal: tuple[str, ...] = ()  # why this is not the paper's study: "20 of 300 epochs", "digits for mnist"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A table or figure that needs no training: speed, landscape, theorem check."""

    source: str
    question: str
    rows: Mapping[str, Callable[[], Array]]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on one claim, and the numbers behind it."""

    stated: Stated
    verdict: Verdict
    finding: str  # one sentence with means, n and p
    p_value: float | None = None


LEVEL = 0.05  # family-wise over the comparisons of one claim, by Holm's method


def judge(stated: Stated, results: Results, rehearsal: Sequence[str] = ()) -> Judgement:
    """Does `row` score lower than each of the others? Two-sided rank-sum tests on the runs, Holm-corrected.

    A claim that no test on this many runs could support is UNDECIDED; one that could have been supported and was not is
    NOT_REPRODUCED, whether the difference points the other way or is within chance.
    """
    claim = stated.claim
    rows = (claim.row, *claim.others)
    scores = {row: _scores(claim, results.get(row, ())) for row in rows}
    if any(len(scores[row]) == 0 for row in rows):
        missing = ", ".join(row for row in rows if len(scores[row]) == 0)
        return Judgement(stated=stated, verdict=Verdict.NOT_RUN, finding=f"no finished run of {missing}")
    means = {row: float(np.mean(scores[row])) for row in rows}
    ours = scores[claim.row]
    lower = all(means[claim.row] < means[other] for other in claim.others)
    reachable = [statistics.smallest_rank_sum_p(len(ours), len(scores[other])) for other in claim.others]
    p_value = None
    if max(statistics.holm(reachable)) <= LEVEL:
        p_value = max(statistics.holm([statistics.rank_sum(ours, scores[other]) for other in claim.others]))
    if rehearsal:
        verdict = Verdict.REHEARSAL
    elif p_value is None:
        verdict = Verdict.UNDECIDED
    else:
        verdict = Verdict.REPRODUCED if lower and p_value <= LEVEL else Verdict.NOT_REPRODUCED
    listed = ", ".join(f"{row} {means[row]:.4g} (n={len(scores[row])})" for row in rows)
    direction = "as claimed" if lower else "not as claimed"
    support = "too few runs for a test" if p_value is None else f"p = {p_value:.2g}"
    finding = f"{claim.quantity}: {listed}; {direction}, {support}"
    return Judgement(stated=stated, verdict=verdict, finding=finding, p_value=p_value)


def rehearsal_reasons(study: Study, results: Results) -> tuple[str, ...]:
    """Why these runs are not the paper's: how the study was adapted, and data that is not the real bytes."""
    labels = {
        f"{run.environment['dataset']} instead of {trial.data.name}"
        for label, trial in study.trials.items()
        for run in results.get(label, ())
        if run.environment.get("dataset", trial.data.name) != trial.data.name
    }
    return (*study.rehearsal, *sorted(labels))


def _scores(claim: Claim, runs: Sequence[RunResult]) -> np.ndarray:
    """One score per finished run; a diverged run scores worst, so that it cannot make its row look better."""
    scores = [np.inf if run.status == "diverged" else claim.score(run) for run in runs if run.status != "unfinished"]
    return np.array([score for score in scores if not np.isnan(score)])


def adapt(
    study: Study,
    *,
    epochs: int | None = None,
    runs: int | None = None,
    data: str | None = None,
    precision: str = "float32",
) -> Study:
    """The study with other lengths, data or precision; whatever departs from the paper is named in `rehearsal`."""
    if runs is not None and runs < 1:
        raise InputError(f"runs must be at least 1; got {runs}")
    reasons: dict[str, None] = dict.fromkeys(study.rehearsal)
    trials: dict[str, Trial] = {}
    for label, trial in study.trials.items():
        full = trial.recipe.length.count
        if epochs is not None and epochs != full:
            trial = replace(trial, recipe=trial.recipe.lasting(epochs))
            reasons[f"{epochs} of {full} epochs"] = None
        if data is not None and data != trial.data.name:
            reasons[f"{data} instead of {trial.data.name}"] = None
            trial = _on_other_data(trial, data)
        if precision == "bf16":
            trial = replace(trial, model=trial.model.clone(dtype=jnp.bfloat16))
            reasons["bf16 instead of float32"] = None
        trials[label] = trial
    if runs is not None and runs < study.runs:
        reasons[f"{runs} of {study.runs} runs"] = None
    return replace(study, trials=trials, runs=runs or study.runs, rehearsal=tuple(reasons))


def _on_other_data(trial: Trial, name: str) -> Trial:
    """The trial on another dataset: the same share of the training images held out, as many outputs as classes."""
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    ours, theirs = DATASETS[trial.data.name], DATASETS[name]
    validation = round(trial.data.validation / ours.train * theirs.train)
    model = trial.model
    if getattr(model, "num_classes", theirs.num_classes) != theirs.num_classes:
        model = model.clone(num_classes=theirs.num_classes)
    return replace(trial, model=model, data=replace(trial.data, name=name, validation=validation))
