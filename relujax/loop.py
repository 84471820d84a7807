"""A group of runs trained together: from a step to the end, with records, checkpoints and preemption."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from relujax import datasets, records
from relujax.checkpoint import Checkpoints, newest
from relujax.errors import InputError
from relujax.preemption import Preempted, noted_signals
from relujax.progress import Reporter
from relujax.sharding import everywhere, make_mesh, over_runs
from relujax.train import Programs, Split, Streamed, TrainState, compile_programs
from relujax.trial import Trial, differences, trial_id


@dataclass(frozen=True, kw_only=True)
class Options:
    """How runs are trained; nothing here changes which runs they are."""

    data_dir: str | Path | None = None  # a TFDS data directory; None: $RELUJAX_DATA or ~/.cache/relujax/data
    devices: int | None = None  # so many instead of all
    devices_per_run: int | None = None  # so many split each batch; None: those that are spare, on CPU one
    tensorboard: bool = False  # also write TensorBoard events, into workdir/tensorboard
    checkpoint_every: float = 300.0  # seconds


def mesh_of(trial: Trial, runs: int, options: Options) -> Mesh:
    """The devices on which so many runs of the trial train at once."""
    batch_size, devices_per_run = trial.recipe.batch_size, options.devices_per_run
    return make_mesh(runs, options.devices, batch_size=batch_size, devices_per_run=devices_per_run)


def splits(trial: Trial, dataset: datasets.Dataset) -> dict[str, Split | Streamed]:
    """The dataset as the trial uses it: "train", "test" and, where images are held out, "validation"."""
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


def train(
    trial: Trial,
    directories: Mapping[int, Path],
    start: int,
    parts: Mapping[str, Split | Streamed],
    mesh: Mesh,
    circumstances: Mapping[str, Any],
    workdir: Path,
    options: Options,
    label: str,
    reporter: Reporter,
) -> None:
    """Trains the runs of `directories` (seed → directory) together from step `start` to the end.

    Raises Preempted, with everything saved, soon after SIGTERM or Ctrl-C. The caller holds the locks.
    """
    train = _placed(parts["train"], mesh)
    # Where images are held out, the test images are read once, at the end.
    watched = "validation" if "validation" in parts else "test"
    others = {watched: _placed(parts[watched], mesh)}
    programs = compile_programs(trial, mesh, train.images.shape, isinstance(train, Streamed))
    seeds = jax.device_put(np.array(list(directories), np.int32), over_runs(mesh))
    alive = dict(enumerate(directories.values()))
    epochs, steps = trial.recipe.length.count, len(train) // trial.recipe.batch_size
    step = start

    with ExitStack() as stack:
        asked = stack.enter_context(noted_signals())
        checkpoints = {run: Checkpoints(directory) for run, directory in alive.items()}
        boards = {}
        if options.tensorboard:
            writer = tensorboard_writer()
            boards = {
                # Epochs of a run that was killed after its last checkpoint come again, and are shown once.
                run: writer(str(_board(workdir, trial, label, seed)), purge_step=start // steps + 1, flush_secs=10)
                for run, seed in enumerate(directories)
            }
        for checkpoint in checkpoints.values():
            stack.callback(checkpoint.close)
        for board in boards.values():
            stack.callback(_unless_it_fails, board.close)
        states = _start(trial, programs, directories, start, checkpoints, workdir, seeds, train, mesh)
        for directory in alive.values():
            records.keep_epochs(directory, start // steps)
        _note(circumstances, directories.values(), resumed=start > 0)
        saved = begun = time.monotonic()

        def due() -> bool:
            for checkpoint in checkpoints.values():
                checkpoint.surface()
            return asked.is_set() or time.monotonic() - saved > options.checkpoint_every

        while alive and step < epochs * steps:  # killed after the last checkpoint, only the result is missing
            states = programs.epoch(states, seeds, train, due)
            for run, step in enumerate(np.asarray(states.diverged_at).tolist()):
                if step and run in alive:
                    end(alive.pop(run), circumstances, status="diverged", diverged_at_step=step)
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
                        end(alive.pop(run), circumstances, status="diverged", diverged_at_step=step)
                        continue
                    scalars = {name: float(value) for name, value in own.items() if value.ndim == 0}
                    arrays = {name: value for name, value in own.items() if value.ndim > 0}
                    line = {"epoch": epoch, "step": step, **scalars, "seconds": seconds}
                    records.append_epoch(directory, line, arrays)
                    for name, value in scalars.items() if run in boards else ():
                        if not _unless_it_fails(boards[run].add_scalar, name, value, epoch):
                            boards.clear()
                            break
                loss = float(np.mean([metrics["train_loss"][run] for run in alive])) if alive else float("nan")
                reporter(label, runs=len(directories), images=len(directories) * len(train), loss=loss)
            if step == epochs * steps or due():
                host = jax.device_get(states)
                for run in alive:
                    own = jax.tree.map(lambda leaf, run=run: leaf[run], host)
                    # From numbers that are none there is no going on; the next loss will tell.
                    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(own)):
                        checkpoints[run].save(step, own)
                saved = time.monotonic()
            if asked.is_set() and step < epochs * steps:
                raise Preempted
    for directory in alive.values():
        end(directory, circumstances, status="done")
    if asked.is_set():  # during the last step: these runs are done, and no others shall begin
        raise Preempted


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
    before = _restored(earlier, _final_step(earlier), like, mesh)
    for checkpoint in earlier:
        checkpoint.close()
    return replace(states, params=before.params, batch_stats=before.batch_stats)


def _final_step(checkpoints: Sequence[Checkpoints]) -> int:
    """The step after which runs that are done have ended; refuses where the checkpoint of it is not whole."""
    step = 0
    for directory in (own.directory for own in checkpoints):
        step = int(records.read_history(directory)[-1]["step"])
        if newest(directory) != step:
            raise InputError(f"the last checkpoint of {directory} is damaged; remove {directory} to train it again")
    return step


def _restored(checkpoints: Sequence[Checkpoints], step: int, like: TrainState, mesh: Mesh) -> TrainState:
    """The states after `step`, stacked; `like` has their shapes and types with the leading run axis."""
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), like)
    restored = [own.restore(step, like) for own in checkpoints]
    return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *restored), over_runs(mesh))


def _placed(images: Split | Streamed, mesh: Mesh) -> Split | Streamed:
    return images if isinstance(images, Streamed) else jax.device_put(images, everywhere(mesh))


def _note(circumstances: Mapping[str, Any], directories: Iterable[Path], resumed: bool) -> None:
    """Writes down where the runs train; says so where they began elsewhere, for then they end the same only roughly."""
    now = {name: value for name, value in circumstances.items() if name != "date"}
    changed = {}
    for directory in directories:
        path = directory / "environment.json"
        if resumed and path.exists() and (differing := differences(now, records.read_json(path))):
            changed.setdefault("; ".join(differing), []).append(str(directory))
        records.write_json(path, now)
    for differing, where in changed.items():
        logging.getLogger(__name__).warning(
            "not bitwise what an uninterrupted run gives, but up to rounding: %s (%s)", differing, ", ".join(where)
        )


def end(directory: Path, circumstances: Mapping[str, Any], **outcome: Any) -> None:
    """Notes how the run has ended; from then on it is only read."""
    records.write_json(directory / "result.json", {**outcome, "environment": dict(circumstances)})


def _unless_it_fails(call: Callable, *args: Any) -> bool:
    """Whether the call went well; a board that does not work is said, and never ends the runs that it watches."""
    try:
        call(*args)
    except Exception as error:
        logging.getLogger(__name__).warning("TensorBoard events are given up: %s: %s", type(error).__name__, error)
        return False
    return True


def _board(workdir: Path, trial: Trial, label: str, seed: int) -> Path:
    """Where a run's events go: TensorBoard names curves by their directory, so it says the row and the seed."""
    name = re.sub(r"[^\w.,+ ()-]", "-", f"{label} {trial_id(trial)}".strip())
    return workdir / "tensorboard" / name / f"seed_{seed}"


def tensorboard_writer() -> Any:
    """The class of TensorBoard writers, where there is one."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs tensorboardX: pip install 'relujax[tensorboard]'") from None
    return SummaryWriter
