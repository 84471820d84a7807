"""Study and Measurement: a table or figure of a paper as pure data, and how it is shortened or moved to other data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from relujax.claims import Epoch, Results, Stated, rows_of
from relujax.data import Data, PerChannel, UnitRange
from relujax.datasets import DATASETS, facts_of
from relujax.errors import InputError, check_choice, check_count
from relujax.trial import RunResult, Trial

MOST_RUNS = 10_000  # each has a directory


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A panel of curves over epochs: one line per row and metric, mean ± std over runs."""

    metrics: tuple[str, ...]
    label: str  # of the vertical axis, with its unit
    log: bool = False
    rows: tuple[str, ...] = ()  # these only; () for all


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A panel with the distribution over units of a probe's variance over epochs, all runs of a row pooled."""

    probe: str
    of: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A panel of one bar per row, for shares a point, mean ± std over runs, and the paper's number beside it."""

    metric: str
    label: str
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ByDepth:
    """A panel of one line per series over depth, mean ± std over runs: series name → {depth: row label}."""

    metric: str
    label: str
    series: Mapping[str, Mapping[int, str]]
    horizontal: str = "depth (layers)"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A panel of one line per row over `metrics`, which are places in an order: mean ± std over runs."""

    metrics: tuple[str, ...]
    horizontal: str
    label: str
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A panel of a measurement: one line per row, its array `y` (points,) over its array `x` (points,)."""

    x: str
    y: str
    horizontal: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Images:
    """A grid of grey images, one row of them per row: the array `images` (n, H, W), shown on one scale per image.

    Of a study, those that the probe of that name saw in the first run after its last epoch.
    """

    images: str
    label: str


Panel = Curves | Distribution | Bars | ByDepth | Profile | Lines | Images


@dataclass(frozen=True)
class Reported:
    """The paper's printed number of a row, in the metric's printed unit (percent for errors and accuracies)."""

    mean: float
    std: float | None = None
    runs: int | None = None  # behind `std`, where the paper says so

    def __str__(self) -> str:
        return f"{self.mean:.10g}" if self.std is None else f"{self.mean:.10g} ± {self.std:.10g}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """One table or figure that needs training."""

    source: str  # "ELU, Fig. 2"
    question: str  # one sentence, ends with "?"
    trials: Mapping[str, Trial]  # row label → trial, in the order of the page
    metrics: tuple[str, ...]  # columns of the result table; the first is the one that the paper prints
    epoch: Epoch = "last"  # which epoch the paper prints; never part of a run
    claims: tuple[Stated, ...] = ()
    panels: tuple[Panel, ...] = ()
    reported: Mapping[str, Reported] = field(default_factory=dict)  # row label → the paper's number
    published: Mapping[str, Reported] = field(default_factory=dict)  # rows of the page that others printed, as they are
    runs: int = 5
    rehearsal: tuple[str, ...] = ()  # why this is not the paper's study: "20 of 300 epochs", "digits for mnist"
    adapted: Mapping[str, Any] = field(default_factory=dict)  # what `adapt` was asked for, for a report to ask again

    def __post_init__(self):
        named = [*self.reported, *(row for stated in self.claims for row in rows_of(stated.claim))]
        for label in named:
            check_choice("row", label, self.trials)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.trials)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A table or figure that needs no training: speed, landscape, theorem check.

    A row is measured by calling it: it returns named arrays, of which those in `metrics` have one value per repeat,
    (repeats,), and are judged and printed as the last epoch of so many runs would be.
    """

    source: str
    question: str
    rows: Mapping[str, Callable[[], Mapping[str, np.ndarray]]]
    metrics: tuple[str, ...] = ()
    claims: tuple[Stated, ...] = ()
    panels: tuple[Panel, ...] = ()
    reported: Mapping[str, Reported] = field(default_factory=dict)
    published: Mapping[str, Reported] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.rows)

    # What a table needs to know of any study, and what holds for every measurement.
    epoch: ClassVar[Epoch] = "last"
    rehearsal: ClassVar[tuple[str, ...]] = ()
    runs: ClassVar[int] = 1


Entry = Study | Measurement


def as_runs(
    measurement: Measurement, label: str, arrays: Mapping[str, np.ndarray], environment: Mapping[str, object]
) -> list[RunResult]:
    """A measured row in the form that judges and tables read: one run per repeat, everything else with the first."""
    columns = {name: np.atleast_1d(arrays[name]) for name in measurement.metrics if name in arrays}
    repeats = max((len(values) for values in columns.values()), default=1)
    others = {name: values[None] for name, values in arrays.items() if name not in columns}
    return [
        RunResult(
            trial_id=label,
            seed=repeat,
            status="done",
            history=({name: float(values[repeat]) for name, values in columns.items() if repeat < len(values)},),
            unit_values=others if repeat == 0 else {},
            environment=environment,
        )
        for repeat in range(repeats)
    ]


def rehearsal_reasons(study: Entry, results: Results) -> tuple[str, ...]:
    """Why these runs are not the paper's: how the study was adapted, data not the real bytes, runs that have not ended.

    A verdict before all runs of a row have ended would be one that waits until it likes what it sees.
    """
    if not isinstance(study, Study):
        return study.rehearsal
    ended = [sum(run.status != "unfinished" for run in results.get(label, ())) for label in study.trials]
    fewest = min(filter(None, ended), default=study.runs)
    labels = {
        f"{run.environment['dataset']} instead of {trial.data.name}"
        for label, trial in study.trials.items()
        for run in results.get(label, ())
        if run.environment.get("dataset", trial.data.name) != trial.data.name
    }
    runs = [f"{fewest} of {study.runs} runs"] if fewest < study.runs else []
    return (*study.rehearsal, *runs, *sorted(labels))


def adapt(
    study: Study,
    *,
    epochs: int | None = None,
    runs: int | None = None,
    data: str | Data | None = None,
    precision: Literal["float32", "bf16"] = "float32",
) -> Study:
    """The study with other lengths, data or precision; whatever departs from the paper is named in `rehearsal`.

    `data` is a dataset's name or one's own images (`Data.from_arrays`, `from_tfds`): how they are normalised, varied
    and held out stays the study's.
    """
    if not isinstance(study, Study):
        raise InputError(f"adapt takes a study, such as elu.fig_2_median_activation(); got {study!r}")
    check_choice("precision", precision, ("float32", "bf16"))
    for name, value in (("epochs", epochs), ("runs", runs)):
        if value is not None:
            check_count(name, value)
    if runs is not None and runs > MOST_RUNS:
        raise InputError(f"runs must be at most {MOST_RUNS:,} a row; got {runs:,}")
    if not isinstance(data, str | Data | None):
        raise InputError(f"data must be a dataset's name or Data; got {data!r}")
    asked: dict[str, Any] = {"epochs": epochs, "runs": runs, "data": data, "precision": precision}
    asked = {**study.adapted, **{name: value for name, value in asked.items() if value not in (None, "float32")}}
    for name, value in study.adapted.items():
        if asked[name] != value:
            raise InputError(f"{name} was adapted to {value} before: adapt the paper's study to {asked[name]} instead")
    if isinstance(data, str):
        check_choice("dataset", data, DATASETS)
        data = Data(name=data, normalize=UnitRange())
    reasons: dict[str, None] = dict.fromkeys(study.rehearsal)

    def adapted(trial: Trial) -> Trial:
        full = trial.recipe.length.count
        if trial.start_from is not None:
            trial = replace(trial, start_from=adapted(trial.start_from))
        if epochs is not None and epochs != full:
            trial = replace(trial, recipe=trial.recipe.lasting(epochs))
            reasons[f"{epochs} of {full} epochs"] = None
        if data is not None and (data.name, data.own) != (trial.data.name, trial.data.own):
            reasons[f"{data.name} instead of {trial.data.name}"] = None
            trial = _on_other_data(trial, data)
        if precision == "bf16":
            if not hasattr(trial.model, "dtype"):
                name = type(trial.model).__name__
                raise InputError(f"bf16 needs a network with a field dtype that it computes in; {name} has none")
            trial = replace(trial, model=trial.model.clone(dtype=jnp.bfloat16))
            reasons["bf16 instead of float32"] = None
        return trial

    trials = {label: adapted(trial) for label, trial in study.trials.items()}
    if runs is not None and runs < study.runs:
        reasons[f"{runs} of {study.runs} runs"] = None
    return replace(study, trials=trials, runs=runs or study.runs, rehearsal=tuple(reasons), adapted=asked)


def _on_other_data(trial: Trial, other: Data) -> Trial:
    """The trial on other images: the same share of the training images held out, as many outputs as classes.

    Means and deviations of other channels say nothing about these images: then pixels / 255. A crop that is larger than
    the images is left out.
    """
    ours, theirs = facts_of(trial.data), facts_of(other)
    validation = round(trial.data.validation / ours.train * theirs.train)
    model = trial.model
    if getattr(model, "num_classes", theirs.num_classes) != theirs.num_classes:
        model = model.clone(num_classes=theirs.num_classes)
    normalize = trial.data.normalize
    if isinstance(normalize, PerChannel) and len(normalize.mean) != theirs.shape[-1]:
        normalize = UnitRange()
    crop = trial.data.crop
    if crop is not None and crop > min(theirs.shape[:2]):
        crop = None
    data = replace(trial.data, name=other.name, own=other.own, normalize=normalize, validation=validation, crop=crop)
    return replace(trial, model=model, data=data)
