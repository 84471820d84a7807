"""Study → run directories: skips the runs that are done, goes on with those that are not, trains the rest."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from relujax import bucket, datasets, hosts, loop, records
from relujax.checkpoint import newest, saved
from relujax.claims import Results
from relujax.data import GcnZca, input_shape
from relujax.environment import code_of, environment
from relujax.errors import InputError, check_choice, one_line
from relujax.layers import count
from relujax.loop import Options
from relujax.measure import measure, read_measurement
from relujax.progress import Reporter, progress, silent
from relujax.sharding import batches_of_runs, one_cpu_device_per_core
from relujax.study import Entry, Measurement, Study
from relujax.train import Streamed
from relujax.trial import RunResult, Trial, describe, trial_id


def run(
    study: Entry, *, workdir: str | Path, name: str | None = None, only: Sequence[str] = (), **options: Any
) -> Results:
    """Trains every run of `study` (or of the rows in `only`) that `workdir` does not hold yet; returns all of them.

    The workdir is a directory, or a bucket's gs://bucket/path, see `bucket.py`.
    A row that an error stops is noted, and the others go on. A measurement's rows are measured instead. The other
    keywords are those of `Options`.
    """
    one_cpu_device_per_core(options.get("devices"))
    if bucket.is_address(workdir):
        with bucket.local(workdir, training=True) as directory:
            return run(study, workdir=directory, name=name, only=only, **options)
    workdir, how = Path(workdir), Options(**options)
    if not isinstance(study, Entry):
        raise InputError(f"run takes a study, such as elu.fig_2_median_activation(); got {study!r}")
    name = re.sub(r"\W+", "_", study.source).strip("_").lower()[:60] if name is None else name
    if begin({name: study}, workdir=workdir, only=only, options=how):
        train(study, name, workdir=workdir, only=only, options=how)
    if isinstance(study, Measurement):
        return read_measurement(study, name, workdir)
    return records.read_results(workdir, study.trials, study.runs)


def begin(
    studies: Mapping[str, Entry], *, workdir: Path, only: Sequence[str], options: Options, here: bool = True
) -> list[str]:
    """Checks all the studies, then notes in `workdir` what each is run as; the names of those that have work left.

    Where one is refused nothing is written. They will train `here`, or on other machines.
    """
    unfinished = [
        name
        for name, study in studies.items()
        if _has_work(study, name, workdir=workdir, only=only, here=here, options=options)
    ]
    for name, study in studies.items() if hosts.is_first() else ():
        if isinstance(study, Study):
            noted = {"trials": study.trials, "runs": study.runs, "rehearsal": study.rehearsal}
            records.note_study(workdir, name, describe(noted | {"overrides": study.adapted}))
            _say_what_other_code_trained(workdir, study)
    return unfinished


def train(study: Entry, name: str, *, workdir: Path, only: Sequence[str], options: Options) -> None:
    """Trains, or measures, what `begin` has checked, row by row."""
    first = hosts.is_first()  # of many processes: the others see nothing of the workdir
    if isinstance(study, Measurement):
        if first:
            measure(study, name=name, workdir=workdir, only=only)
        return
    seeds, chosen = range(study.runs), {label: study.trials[label] for label in only or study.trials}
    needed = phases(chosen.values())
    total = sum(trial.recipe.length.count for trial in needed) * study.runs
    done = sum(_epochs_done(workdir, trial, seed) for trial in needed for seed in seeds)
    with progress(total, done) if first else nullcontext(silent) as reporter:
        for label, trial in chosen.items():
            failure = ""
            try:
                _fit(trial, seeds, workdir, options, label, reporter)
            except (InputError, OSError):  # what befalls the next row as well, and needs the user
                raise
            except Exception as error:
                if jax.process_count() > 1:  # the others wait for this one
                    raise
                failure = f"{type(error).__name__}: {one_line(error)}"
                if "RESOURCE_EXHAUSTED" in failure:
                    failure += "; less memory with --remat, or with the runs in turn (--together map)"
                logging.getLogger(__name__).exception("%s is given up", label)
            for seed in seeds if first else ():
                records.note_failure(records.run_directory(workdir, trial, seed), failure)


def _has_work(study: Entry, name: str, *, workdir: Path, only: Sequence[str], here: bool, options: Options) -> bool:
    """Raises, before anything is written, what would stop `train`; returns whether it has work left."""
    records.check_name(name)
    _check_workdir(workdir)
    for label in only:
        check_choice("row", label, study.labels)
    if isinstance(study, Measurement):
        return True
    every = phases(study.trials.values())
    for trial in every:
        check(trial)
    if here:
        _check_machine(options, every, study.runs)
    first, seeds = hosts.is_first(), range(study.runs)
    if first:
        records.check_study(workdir, name, describe(study.trials))
    needed = phases(study.trials[label] for label in only or study.trials)
    finished = hosts.agreed(np.array([first and _finished(workdir, trial, seeds) for trial in needed]))
    waiting = [trial for trial, done in zip(needed, finished) if not done]
    for trial in waiting:
        count(trial.model, (1, *input_shape(trial.data, datasets.facts_of(trial.data).shape)))  # what a network refuses
        if first:
            _check_earlier(workdir, trial, seeds)
    for data in {(trial.data.name, trial.data.own): trial.data for trial in waiting}.values():
        datasets.load_images(data, _path(options.data_dir))
    return bool(waiting)


def _say_what_other_code_trained(workdir: Path, study: Study) -> None:
    """Warns of runs that have ended and were trained before relujax's own code changed: they are read as they are."""
    others: dict[str, Path] = {}
    for label, trial in study.trials.items():
        now, of_trial = code_of(trial.model), records.run_directory(workdir, trial, 0).parent
        ended = filter(records.is_finished, sorted(of_trial.glob("seed_*")))
        if any(records.read_ended(run)["environment"].get("code", now) != now for run in ended):
            others[label] = of_trial
    if others:
        label, directory = next(iter(others.items()))
        rest = f" and {len(others) - 1} more of {len(study.trials)} rows" if len(others) > 1 else ""
        said = "trained by other code of relujax than today's: %s; to do it again, remove that or use another workdir"
        logging.getLogger(__name__).warning(said, f"{label} ({directory}){rest}")


def phases(trials: Iterable[Trial]) -> list[Trial]:
    """The trials and those that they start from, each once, in the order in which they have to be trained."""
    found: dict[str, Trial] = {}
    for trial in trials:
        earlier = [] if trial.start_from is None else phases([trial.start_from])
        found |= {trial_id(phase): phase for phase in (*earlier, trial)}
    return list(found.values())


def fit(
    trial: Trial,
    *,
    seeds: Sequence[int],
    workdir: str | Path,
    label: str = "",
    reporter: Reporter = silent,
    **options: Any,
) -> list[RunResult]:
    """Trains `trial` with each seed, several at once, into `workdir`; runs that are done there are only read.

    A trial that starts from another one has that trained first. The other keywords are those of `Options`.
    """
    one_cpu_device_per_core(options.get("devices"))
    if bucket.is_address(workdir):
        with bucket.local(workdir, training=True) as directory:
            return fit(trial, seeds=seeds, workdir=directory, label=label, reporter=reporter, **options)
    workdir, how, needed = Path(workdir), Options(**options), phases([trial])
    valid = all(isinstance(seed, int | np.integer) and 0 <= seed < 2**31 for seed in seeds)
    if not valid or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must be different whole numbers from 0 to {2**31 - 1}; got {list(seeds)}")
    for phase in needed:
        check(phase)
    _check_workdir(workdir)
    _check_machine(how, needed, len(seeds))
    for phase in needed if hosts.is_first() else ():
        _check_earlier(workdir, phase, seeds)
    return _fit(trial, seeds, workdir, how, label, reporter)


def _fit(
    trial: Trial, seeds: Sequence[int], workdir: Path, options: Options, label: str, reporter: Reporter
) -> list[RunResult]:
    directories = {seed: records.run_directory(workdir, trial, seed) for seed in seeds}
    first = hosts.is_first()
    finished = hosts.agreed(np.array([first and records.is_finished(directories[seed]) for seed in seeds]))
    pending = [seed for seed, done in zip(seeds, finished) if not done]
    if pending and trial.start_from is not None:
        before = _fit(trial.start_from, pending, workdir, options, label, reporter)
        diverged = hosts.agreed(np.array([first and before[i].status == "diverged" for i in range(len(pending))]))
        for earlier in [run for run, failed in zip(before, diverged) if failed] if first else ():
            # There is nothing to go on from, and the row has to show it.
            records.open_run(directories[earlier.seed], trial)
            loop.end(directories[earlier.seed], earlier.environment, status="diverged", diverged_at_step=0)
        pending = [seed for seed, failed in zip(pending, diverged) if not failed]
    if pending:
        dataset = datasets.load_images(trial.data, _path(options.data_dir))
        parts = loop.splits(trial, dataset)
        # Groups of as many runs share what is compiled for them.
        programs = cache(partial(loop.programs_of, trial, parts["train"], options))
        with records.locked(directories[seed] for seed in pending) if first else nullcontext():
            begun = [_begun(workdir, trial, seed, dataset) if first else 0 for seed in pending]
            steps = hosts.agreed(np.array(begun))
            progressed: dict[int, list[int]] = {}
            for seed, step in zip(pending, map(int, steps)):
                if step >= 0:
                    progressed.setdefault(step, []).append(seed)
            for start, group in sorted(progressed.items(), reverse=True):
                # Networks for images that no device holds fill a device each.
                alone = isinstance(parts["train"], Streamed)
                for batch in batches_of_runs(group, loop.mesh_of(trial, len(group), options), alone=alone):
                    own = {seed: directories[seed] for seed in batch}
                    mesh = loop.mesh_of(trial, len(batch), options)
                    circumstances = environment(dataset, len(batch), mesh, trial.model) | options.overriding
                    with jax.default_matmul_precision("highest"):
                        loop.train(
                            trial,
                            programs=programs(mesh),
                            directories=own,
                            start=start,
                            parts=parts,
                            mesh=mesh,
                            circumstances=circumstances,
                            workdir=workdir,
                            options=options,
                            label=label,
                            reporter=reporter,
                        )
    return [run for seed in seeds if (run := records.read_run(directories[seed], trial, seed)) is not None]


def _begun(workdir: Path, trial: Trial, seed: int, dataset: datasets.Dataset) -> int:
    """Opens a run that is locked; the step to go on from, −1 if another process has ended it before we had the lock."""
    directory = records.run_directory(workdir, trial, seed)
    if records.is_finished(directory):
        return -1
    records.open_run(directory, trial)
    step = newest(directory)
    if step:
        _check_data(directory, dataset)
    elif trial.start_from is not None:
        _check_data(records.run_directory(workdir, trial.start_from, seed), dataset)
    return step


def _check_data(begun: Path, dataset: datasets.Dataset) -> None:
    """Refuses to go on from a run that was trained on other images of the same name."""
    path = begun / "environment.json"
    then = records.read_object(path) if path.exists() else {}
    if then.get("dataset_digest", dataset.digest) != dataset.digest:
        raise InputError(
            f"{begun} was trained on {then['dataset']}, SHA-256 {then['dataset_digest'][:12]}…, and this is "
            f"{dataset.label}, {dataset.digest[:12]}…: use another workdir, or the --data-dir that it began with"
        )


def check(trial: Trial) -> None:
    """Refuses, before anything is compiled or written, what the trial's dataset cannot give."""
    facts = datasets.facts_of(trial.data)
    left = facts.train - trial.data.validation
    if not 0 <= trial.data.validation < facts.train:
        raise InputError(
            f"validation must be between 0 and {facts.train - 1}, the training images of {trial.data.name} less one; "
            f"got {trial.data.validation}"
        )
    if trial.recipe.batch_size > left:
        raise InputError(f"batch size must be at most {left}, the training images; got {trial.recipe.batch_size}")
    steps = left // trial.recipe.batch_size
    if trial.recipe.length.count * steps >= 2**31:
        most = (2**31 - 1) // steps
        raise InputError(f"epochs must be at most {most:,}, of {steps:,} steps each; got {trial.recipe.length.count:,}")
    if trial.data.crop is not None and trial.data.crop > min(facts.shape[:2]):
        raise InputError(f"crop must be at most {min(facts.shape[:2])} for {trial.data.name}; got {trial.data.crop}")
    if facts.large and isinstance(trial.data.normalize, GcnZca):
        raise InputError(f"GcnZca needs all images in memory, and {trial.data.name} is too large: use PerPixelMean")
    if facts.large and any(probe.images is None for probe in trial.probes):
        raise InputError(f"a probe of all training images needs them in memory, and {trial.data.name} is too large")
    outputs = getattr(trial.model, "num_classes", facts.num_classes)
    if outputs < facts.num_classes:
        raise InputError(f"{trial.data.name} has {facts.num_classes} classes; the network has only {outputs} outputs")


def _check_workdir(workdir: Path) -> None:
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"the workdir must be a directory; {workdir} is a file")


def _check_earlier(workdir: Path, trial: Trial, seeds: Sequence[int]) -> None:
    """Refuses to start from a run of which only the record is there, see `results.take_over`."""
    if trial.start_from is None:
        return
    for seed in seeds:
        earlier = records.run_directory(workdir, trial.start_from, seed)
        if (
            not records.is_finished(records.run_directory(workdir, trial, seed))
            and records.is_finished(earlier)
            and records.read_ended(earlier)["status"] == "done"
            and not newest(earlier)
        ):
            raise InputError(f"{earlier} has ended, but has no checkpoint to start from; remove it to train it again")


def _check_machine(options: Options, trials: Iterable[Trial], runs: int) -> None:
    if options.tensorboard:
        loop.tensorboard_writer()
    for trial in trials:
        for group in batches_of_runs(range(runs), loop.mesh_of(trial, runs, options)) if runs else ():
            loop.mesh_of(trial, len(group), options)


def _finished(workdir: Path, trial: Trial, seeds: Sequence[int]) -> bool:
    return all(records.is_finished(records.run_directory(workdir, trial, seed)) for seed in seeds)


def _epochs_done(workdir: Path, trial: Trial, seed: int) -> int:
    """How many epochs of the run are behind it: all once it has ended, else those that a checkpoint has saved."""
    directory = records.run_directory(workdir, trial, seed)
    if records.is_finished(directory):
        return trial.recipe.length.count
    last = max(saved(directory), default=0)
    return sum(epoch["step"] <= last for epoch in records.read_history(directory))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
