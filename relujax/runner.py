"""Study → run directories: skips the runs that are done, goes on with those that are not, trains the rest."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from relujax import datasets, records
from relujax.checkpoint import Checkpoints, newest
from relujax.claims import Results
from relujax.data import GcnZca
from relujax.environment import environment
from relujax.errors import InputError, unknown
from relujax.measure import measure
from relujax.preemption import Preempted, noted_signals
from relujax.progress import Reporter, progress, silent
from relujax.sharding import batches_of_runs, everywhere, make_mesh, one_cpu_device_per_core, over_runs
from relujax.study import Measurement, Study
from relujax.train import Programs, Split, Streamed, TrainState, compile_programs
from relujax.trial import RunResult, Trial, describe, trial_id

CHECKPOINT_EVERY_SECONDS = 300.0


def run(
    study: Study | Measurement,
    *,
    workdir: str | Path,
    name: str | None = None,
    only: Sequence[str] = (),
    data_dir: str | Path | None = None,
    devices: int | None = None,
    tensorboard: bool = False,
    checkpoint_every: float = CHECKPOINT_EVERY_SECONDS,
    overrides: Mapping[str, Any] | None = None,
) -> Results:
    """Trains every run of `study` (or of the rows in `only`) that `workdir` does not hold yet; returns all of them.

    A measurement's rows are measured instead.
    """
    workdir = Path(workdir)
    name = name or re.sub(r"\W+", "_", study.source).strip("_").lower()
    if isinstance(study, Measurement):
        _check_workdir(workdir)
        return measure(study, name=name, workdir=workdir, only=only)
    for label in only:
        if label not in study.trials:
            raise unknown("row", label, study.trials)
    for trial in _phases(study.trials.values()):
        check(trial)
    _check_machine(workdir, devices, tensorboard)
    chosen = {label: trial for label, trial in study.trials.items() if not only or label in only}
    seeds = range(study.runs)
    phases = _phases(chosen.values())
    waiting = [trial for trial in phases if not _finished(workdir, trial, seeds)]
    for data_name in {trial.data.name for trial in waiting}:
        datasets.load(data_name, _path(data_dir))  # a missing dataset is found before anything is written
    records.open_study(
        workdir,
        name,
        {
            "trials": describe(study.trials),
            "runs": study.runs,
            "rehearsal": list(study.rehearsal),
            "overrides": dict(overrides or {}),
        },
    )
    if waiting:
        total = sum(trial.recipe.length.count for trial in phases) * study.runs
        done = sum(_epochs_done(workdir, trial, seed) for trial in phases for seed in seeds)
        with progress(total, done) as reporter:
            for label, trial in chosen.items():
                fit(
                    trial,
                    seeds=seeds,
                    workdir=workdir,
                    data_dir=data_dir,
                    devices=devices,
                    tensorboard=tensorboard,
                    checkpoint_every=checkpoint_every,
                    label=label,
                    reporter=reporter,
                )
    return records.read_results(workdir, study.trials, study.runs)


def _phases(trials: Iterable[Trial]) -> list[Trial]:
    """The trials and those that they start from, each once, in the order in which they have to be trained."""
    found: dict[str, Trial] = {}
    for trial in trials:
        earlier = [] if trial.start_from is None else _phases([trial.start_from])
        found |= {trial_id(phase): phase for phase in (*earlier, trial)}
    return list(found.values())


def fit(
    trial: Trial,
    *,
    seeds: Sequence[int],
    workdir: str | Path,
    data_dir: str | Path | None = None,
    devices: int | None = None,
    tensorboard: bool = False,
    checkpoint_every: float = CHECKPOINT_EVERY_SECONDS,
    label: str = "",
    reporter: Reporter = silent,
) -> list[RunResult]:
    """Trains `trial` with each seed, several at once, into `workdir`; runs that are done there are only read.

    A trial that starts from another one has that trained first.
    """
    workdir = Path(workdir)
    check(trial)
    _check_machine(workdir, devices, tensorboard)
    directories = {seed: records.run_directory(workdir, trial, seed) for seed in seeds}
    pending = [seed for seed in seeds if not records.is_finished(directories[seed])]
    if pending and trial.start_from is not None:
        before = fit(
            trial.start_from,
            seeds=pending,
            workdir=workdir,
            data_dir=data_dir,
            devices=devices,
            tensorboard=tensorboard,
            checkpoint_every=checkpoint_every,
            label=label,
            reporter=reporter,
        )
        for earlier in before:
            if earlier.status == "diverged":  # there is nothing to go on from, and the row has to show it
                records.open_run(directories[earlier.seed], trial)
                _end(directories[earlier.seed], earlier.environment, status="diverged", diverged_at_step=0)
                pending.remove(earlier.seed)
    if pending:
        dataset = datasets.load(trial.data.name, _path(data_dir))
        parts = _parts(trial, dataset)
        progressed: dict[int, list[int]] = {}
        for seed in pending:
            records.open_run(directories[seed], trial)
            progressed.setdefault(newest(directories[seed]), []).append(seed)
        for start, group in sorted(progressed.items(), reverse=True):
            # Networks for images that no device holds fill a device each.
            alone = isinstance(parts["train"], Streamed)
            for batch in batches_of_runs(group, make_mesh(len(group), devices), alone=alone):
                own = {seed: directories[seed] for seed in batch}
                circumstances = environment(dataset, len(batch))
                with jax.default_matmul_precision("highest"):
                    _train(
                        trial,
                        own,
                        start,
                        parts,
                        circumstances,
                        workdir,
                        devices,
                        tensorboard,
                        checkpoint_every,
                        label,
                        reporter,
                    )
    return [run for seed in seeds if (run := records.read_run(directories[seed], trial, seed)) is not None]


def check(trial: Trial) -> None:
    """Refuses, before anything is compiled or written, what the trial's dataset cannot give."""
    if trial.data.name not in datasets.DATASETS:
        raise unknown("dataset", trial.data.name, datasets.DATASETS)
    facts = datasets.DATASETS[trial.data.name]
    left = facts.train - trial.data.validation
    if not 0 <= trial.data.validation < facts.train:
        raise InputError(
            f"validation must be between 0 and {facts.train - 1}, the training images of {trial.data.name} less one; "
            f"got {trial.data.validation}"
        )
    if trial.recipe.batch_size > left:
        raise InputError(f"batch size must be at most {left}, the training images; got {trial.recipe.batch_size}")
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


def _check_machine(workdir: Path, devices: int | None, tensorboard: bool) -> None:
    _check_workdir(workdir)
    if devices is not None and devices < 1:
        raise InputError(f"devices must be at least 1; got {devices}")
    if tensorboard:
        _tensorboard_writer()
    one_cpu_device_per_core(devices)
    make_mesh(1, devices)


def _train(
    trial: Trial,
    directories: Mapping[int, Path],
    start: int,
    parts: Mapping[str, Split | Streamed],
    circumstances: Mapping[str, Any],
    workdir: Path,
    devices: int | None,
    tensorboard: bool,
    checkpoint_every: float,
    label: str,
    reporter: Reporter,
) -> None:
    """Trains the runs of `directories` (seed → directory) together from step `start` to the end.

    Raises Preempted, with everything saved, soon after SIGTERM or Ctrl-C.
    """
    mesh = make_mesh(len(directories), devices)
    train = _placed(parts["train"], mesh)
    # Where images are held out, the test images are read once, at the end.
    watched = "validation" if "validation" in parts else "test"
    others = {watched: _placed(parts[watched], mesh)}
    programs = compile_programs(trial, mesh, train.images.shape, isinstance(train, Streamed))
    seeds = jax.device_put(np.array(list(directories), np.int32), over_runs(mesh))
    alive = dict(enumerate(directories.values()))
    epochs, steps = trial.recipe.length.count, len(train) // trial.recipe.batch_size

    with ExitStack() as stack:
        stack.enter_context(records.locked(directories.values()))
        asked = stack.enter_context(noted_signals())
        checkpoints = {run: Checkpoints(directory) for run, directory in alive.items()}
        boards = {}
        if tensorboard:
            writer = _tensorboard_writer()
            boards = {run: writer(str(directory / "tensorboard")) for run, directory in alive.items()}
        for closing in (*checkpoints.values(), *boards.values()):
            stack.callback(closing.close)
        states = _start(trial, programs, directories, start, checkpoints, workdir, seeds, train, mesh)
        for directory in alive.values():
            records.keep_epochs(directory, start // steps)
        saved = begun = time.monotonic()

        def due() -> bool:
            return asked.is_set() or time.monotonic() - saved > checkpoint_every

        while alive:
            states = programs.epoch(states, seeds, train, due)
            for run, step in enumerate(np.asarray(states.diverged_at).tolist()):
                if step and run in alive:
                    _end(alive.pop(run), circumstances, status="diverged", diverged_at_step=step)
            step = int(states.step[0])
            epoch, into = divmod(step, steps)
            if alive and not into:
                if epoch == epochs and watched == "validation":
                    others["test"] = _placed(parts["test"], mesh)
                metrics = jax.device_get(programs.measure(states, train, others))
                seconds = round((time.monotonic() - begun) / len(directories), 4)
                begun = time.monotonic()
                for run, directory in list(alive.items()):
                    own = {name: values[run] for name, values in metrics.items()}
                    if not all(np.isfinite(values).all() for values in own.values()):
                        _end(alive.pop(run), circumstances, status="diverged", diverged_at_step=step)
                        continue
                    scalars = {name: float(value) for name, value in own.items() if value.ndim == 0}
                    arrays = {name: value for name, value in own.items() if value.ndim > 0}
                    line = {"epoch": epoch, "step": step, **scalars, "seconds": seconds}
                    records.append_epoch(directory, line, arrays)
                    for name, value in scalars.items() if boards else ():
                        boards[run].add_scalar(name, value, epoch)
                loss = float(np.mean([metrics["train_loss"][run] for run in alive])) if alive else float("nan")
                reporter(label, runs=len(directories), images=len(directories) * len(train), loss=loss)
            if epoch == epochs or due():
                host = jax.device_get(states)
                for run in alive:
                    own = jax.tree.map(lambda leaf, run=run: leaf[run], host)
                    # From numbers that are none there is no going on; the next loss will tell.
                    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(own)):
                        checkpoints[run].save(step, own)
                saved = time.monotonic()
            if epoch == epochs:
                break
            if asked.is_set():
                raise Preempted
    for directory in alive.values():
        _end(directory, circumstances, status="done")


def _start(
    trial: Trial,
    programs: Programs,
    directories: Mapping[int, Path],
    start: int,
    checkpoints: Mapping[int, Checkpoints],
    workdir: Path,
    seeds: jax.Array,
    train: Split | Streamed,
    mesh: Mesh,
) -> TrainState:
    """The states after step `start`: fresh ones, those of the checkpoints, or the weights of an earlier phase."""
    image = train.take(np.arange(1))  # only its shape counts
    if start > 0:
        return _restored(list(checkpoints.values()), start, jax.eval_shape(programs.init, seeds, image), mesh)
    states = programs.init(seeds, image)
    if trial.start_from is None:
        return states
    earlier = [Checkpoints(records.run_directory(workdir, trial.start_from, seed)) for seed in directories]
    like = jax.eval_shape(compile_programs(trial.start_from, mesh, train.images.shape).init, seeds, image)
    before = _restored(earlier, newest(earlier[0].directory), like, mesh)
    for checkpoint in earlier:
        checkpoint.close()
    return replace(states, params=before.params, batch_stats=before.batch_stats)


def _restored(checkpoints: Sequence[Checkpoints], step: int, like: TrainState, mesh: Mesh) -> TrainState:
    """The states after `step`, stacked; `like` has their shapes and types with the leading run axis."""
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), like)
    restored = [own.restore(step, like) for own in checkpoints]
    return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *restored), over_runs(mesh))


def _end(directory: Path, circumstances: Mapping[str, Any], **outcome: Any) -> None:
    records.write_json(directory / "result.json", {**outcome, "environment": dict(circumstances)})


def _placed(images: Split | Streamed, mesh: Mesh) -> Split | Streamed:
    return images if isinstance(images, Streamed) else jax.device_put(images, everywhere(mesh))


def _parts(trial: Trial, dataset: datasets.Dataset) -> dict[str, Split | Streamed]:
    train_images, train_labels, held_images, held_labels = datasets.hold_out(dataset, trial.data.validation)
    if trial.recipe.batch_size > len(train_images):  # `check` knows the official numbers only
        most = f"at most {len(train_images)}, the training images of {dataset.label}"
        raise InputError(f"batch size must be {most}; got {trial.recipe.batch_size}")
    parts: dict[str, Any] = {
        "train": (train_images, train_labels),
        "test": (dataset.test_images, dataset.test_labels),
        "validation": (held_images, held_labels),
    }
    fit = getattr(trial.data.normalize, "fit", None)
    transform: Any = fit(train_images) if fit else np.asarray

    def split(images: np.ndarray, labels: Any) -> Split | Streamed:
        if isinstance(images, np.memmap):
            return Streamed(images, labels, transform)
        return Split(transform(images), labels)

    return {name: split(*part) for name, part in parts.items() if len(part[0])}


def _tensorboard_writer() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs tensorboardX: pip install 'relujax[tensorboard]'") from None
    return SummaryWriter


def _finished(workdir: Path, trial: Trial, seeds: Sequence[int]) -> bool:
    return all(records.is_finished(records.run_directory(workdir, trial, seed)) for seed in seeds)


def _epochs_done(workdir: Path, trial: Trial, seed: int) -> int:
    """How many epochs of the run are behind it: all once it has ended, else those that it recorded."""
    directory = records.run_directory(workdir, trial, seed)
    if records.is_finished(directory):
        return trial.recipe.length.count
    return len(records.read_history(directory))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
