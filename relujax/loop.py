"""A group of runs trained together: from a step to the end, with records, checkpoints and preemption."""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from relujax import datasets, hosts, records
from relujax.checkpoint import Checkpoints, newest
from relujax.errors import InputError, check_choice, need
from relujax.gates import Begin
from relujax.preemption import Preempted, noted_signals
from relujax.profile import Profile, check_steps
from relujax.progress import Reporter
from relujax.sharding import everywhere, make_mesh, over_runs
from relujax.train import Calls, Programs, Split, Streamed, Together, TrainState, compile_programs
from relujax.trial import Trial, differences, trial_id

NOTHING, CHECKPOINT, END = range(3)  # what a process wishes after a step


@dataclass(frozen=True, kw_only=True)
class Options:
    """How runs are trained; nothing here changes which runs they are."""

    data_dir: str | Path | None = None  # a TFDS data directory; None: $RELUJAX_DATA or ~/.cache/relujax/data
    devices: int | None = None  # so many instead of all
    devices_per_run: int | None = None  # so many split each batch; None: those that are spare, on CPU one
    tensorboard: bool = False  # also write TensorBoard events, into workdir/tensorboard
    checkpoint_every: float = 300.0  # seconds
    calls: Calls = "auto"  # how much one call of a compiled program trains, see `train.dispatch`
    together: Together = "auto"  # how the runs of a device share it, see `train.dispatch`
    remat: bool = False  # compute blocks again for the gradient, see `layers.remat_blocks`: less memory, more time
    profile: tuple[int, int] | None = None  # trace the steps from … up to … into workdir/profile

    def __post_init__(self):
        check_choice("calls", self.calls, get_args(Calls))
        check_choice("together", self.together, get_args(Together))
        if not isinstance(self.checkpoint_every, int | float) or not self.checkpoint_every >= 0:
            raise InputError(f"checkpoint_every must be seconds, 0 or more; got {self.checkpoint_every!r}")
        if not isinstance(self.devices_per_run, int | None):
            raise InputError(f"devices_per_run must be a whole number; got {self.devices_per_run!r}")
        if self.profile is not None:
            check_steps(self.profile)

    @property
    def of_programs(self) -> dict[str, Any]:
        """Those that `train.compile_programs` takes."""
        return {"calls": self.calls, "together": self.together, "remat": self.remat}

    @property
    def overriding(self) -> dict[str, Any]:
        """Those of them that override a rule: what is computed then is rounded otherwise."""
        return {name: value for name, value in self.of_programs.items() if value not in ("auto", False)}


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


def programs_of(trial: Trial, train: Split | Streamed, options: Options, mesh: Mesh) -> Programs:
    """The trial's programs for these training images, see `compile_programs`."""
    return compile_programs(trial, mesh, train.images.shape, isinstance(train, Streamed), **options.of_programs)


def train(
    trial: Trial,
    *,
    programs: Programs,
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
    seeds = hosts.place(np.array(list(directories), np.int32), over_runs(mesh))
    epochs, steps = trial.recipe.length.count, len(train) // trial.recipe.batch_size
    step = start

    with ExitStack() as stack:
        asked = stack.enter_context(noted_signals())
        runs = _Runs(directories, circumstances, stack)
        if options.tensorboard and hosts.is_first():
            # Epochs of a run that was killed after its last checkpoint come again, and are shown once.
            runs.open_boards([_board(workdir, trial, label, seed) for seed in directories], start // steps + 1)
        states = _start(
            trial,
            programs=programs,
            directories=directories,
            start=start,
            checkpoints=runs.checkpoints,
            workdir=workdir,
            seeds=seeds,
            train=train,
            mesh=mesh,
        )
        runs.go_on_from(start // steps, resumed=start > 0)
        profile = stack.enter_context(Profile(options.profile if hosts.is_first() else None, workdir / "profile"))
        saved = begun = time.monotonic()
        wished: Any = NOTHING

        def wish() -> int:
            runs.surface()
            late = time.monotonic() - saved > options.checkpoint_every
            return END if asked.is_set() else CHECKPOINT if late else NOTHING

        def after_steps(taken: int) -> bool:
            nonlocal step, wished
            step += taken
            profile.before(step, step + taken)
            before, wished = wished, hosts.largest(wish())
            # What many processes wish now is known when the step that is under way is done: that is too long to wait.
            return int(wished if jax.process_count() == 1 else before) > NOTHING

        while runs.alive and step < epochs * steps:  # killed after the last checkpoint, only the result is missing
            profile.before(step, step + programs.steps_per_call)
            wished = NOTHING
            states = programs.epoch(states, seeds, train, after_steps)
            runs.end_diverged(hosts.gather(states.diverged_at).tolist())
            step = int(hosts.gather(states.step)[0])
            epoch, into = divmod(step, steps)
            if runs.alive and not into:
                if epoch == epochs and watched == "validation":
                    others["test"] = _placed(parts["test"], mesh)
                metrics = hosts.gather(programs.measure(states, train, others))
                seconds = round((time.monotonic() - begun) / len(directories), 4)
                begun = time.monotonic()
                loss = runs.note_epoch(epoch, step, metrics, seconds)
                reporter(label, runs=len(directories), images=len(directories) * len(train), loss=loss)
            wanted = int(hosts.largest(wish()))
            if step == epochs * steps or wanted:
                runs.save(step, hosts.gather(states))
                saved = time.monotonic()
            if wanted == END and step < epochs * steps:
                raise Preempted
    runs.end_done()
    # During the last step: these runs are done, and no others shall begin.
    if int(hosts.largest(END if asked.is_set() else NOTHING)) == END:
        raise Preempted


class _Runs:
    """The runs of a group by their place in it, on disk. Every process keeps count; the first one writes."""

    def __init__(self, directories: Mapping[int, Path], circumstances: Mapping[str, Any], stack: ExitStack):
        self.alive = dict(enumerate(directories.values()))  # those that have not diverged
        self.checkpoints: dict[int, Checkpoints] = {}
        self._circumstances, self._stack = circumstances, stack
        self._boards: dict[int, Any] = {}
        for run, directory in self.alive.items() if hosts.is_first() else ():
            self.checkpoints[run] = Checkpoints(directory)
            stack.callback(self.checkpoints[run].close)

    def open_boards(self, directories: Sequence[Path], first_epoch: int) -> None:
        """TensorBoard events of each run into its directory."""
        writer = tensorboard_writer()
        for run, directory in enumerate(directories):
            self._boards[run] = writer(str(directory), purge_step=first_epoch, flush_secs=10)
            self._stack.callback(_unless_it_fails, self._boards[run].close)

    def go_on_from(self, epochs: int, resumed: bool) -> None:
        """Forgets the epochs after those, and notes where the runs train now."""
        if hosts.is_first():
            for directory in self.alive.values():
                records.keep_epochs(directory, epochs)
            _note(self._circumstances, self.alive.values(), resumed=resumed)

    def note_epoch(self, epoch: int, step: int, metrics: Mapping[str, np.ndarray], seconds: float) -> float:
        """Writes the metrics of an epoch, ends runs of which one is not finite; the mean train loss of the others."""
        for run, directory in list(self.alive.items()):
            own = {name: values[run] for name, values in metrics.items()}
            if not all(np.isfinite(values).all() for values in own.values()):
                end(self.alive.pop(run), self._circumstances, status="diverged", diverged_at_step=step)
                continue
            scalars = {name: float(value) for name, value in own.items() if value.ndim == 0}
            arrays = {name: value for name, value in own.items() if value.ndim > 0}
            if hosts.is_first():
                line = {"epoch": epoch, "step": step, **scalars, "seconds": seconds}
                records.append_epoch(directory, line, arrays)
            for name, value in scalars.items() if run in self._boards else ():
                if not _unless_it_fails(self._boards[run].add_scalar, name, value, epoch):
                    self._boards.clear()
                    break
        return float(np.mean([metrics["train_loss"][run] for run in self.alive])) if self.alive else float("nan")

    def save(self, step: int, states: TrainState) -> None:
        """Begins to write the states, arrays of the host with a leading run axis."""
        for run in self.alive if hosts.is_first() else ():
            own = jax.tree.map(lambda leaf, run=run: leaf[run], states)
            # From numbers that are none there is no going on; the next loss will tell.
            if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(own)):
                self.checkpoints[run].save(step, own)

    def surface(self) -> None:
        """Raises what went wrong while a checkpoint was written."""
        for checkpoint in self.checkpoints.values():
            checkpoint.surface()

    def end_diverged(self, failed: Sequence[int]) -> None:
        """Ends the runs whose loss was not finite after step failed[run]; 0 where it was."""
        for run, step in enumerate(failed):
            if step and run in self.alive:
                end(self.alive.pop(run), self._circumstances, status="diverged", diverged_at_step=step)

    def end_done(self) -> None:
        """All others have come to their end."""
        for directory in self.alive.values():
            end(directory, self._circumstances, status="done")


def _start(
    trial: Trial,
    *,
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
        return states if trial.begin is None else _begun(trial.begin, states, None, seeds)
    earlier = []
    if hosts.is_first():
        earlier = [Checkpoints(records.run_directory(workdir, trial.start_from, seed)) for seed in directories]
    like = jax.eval_shape(compile_programs(trial.start_from, mesh, train.images.shape).init, seeds, image)
    before = _restored(earlier, _final_step(earlier), like, mesh)
    for checkpoint in earlier:
        checkpoint.close()
    if trial.begin is not None:
        return _begun(trial.begin, states, before.params, seeds)
    return replace(states, params=before.params, batch_stats=before.batch_stats)


def _begun(begin: Begin, states: TrainState, earlier: Any, seeds: jax.Array) -> TrainState:
    """Fresh states with the gates that `begin` gives each run."""
    return replace(states, params=jax.jit(jax.vmap(begin))(states.params, earlier, seeds))


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
    if hosts.is_first():
        own = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), like)
        restored = [checkpoint.restore(step, own) for checkpoint in checkpoints]
        states = jax.tree.map(lambda *leaves: np.stack(leaves), *restored)
    else:
        states = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    return hosts.place(hosts.agreed(states), over_runs(mesh))


def _placed(images: Split | Streamed, mesh: Mesh) -> Split | Streamed:
    return images if isinstance(images, Streamed) else hosts.place(images, everywhere(mesh))


def _note(circumstances: Mapping[str, Any], directories: Iterable[Path], resumed: bool) -> None:
    """Writes down where the runs train; says so where they began elsewhere, for then they end the same only roughly."""
    now = {name: value for name, value in circumstances.items() if name != "date"}
    changed: dict[str, list[str]] = {}
    for directory in directories:
        path = directory / "environment.json"
        then = records.read_object(path) if resumed and path.exists() else now
        if then.get("code", now["code"]) != now["code"]:
            changed.setdefault("goes on with other code of relujax than it began with", []).append(str(directory))
        elif differing := differences(now, {"code": now["code"], **then}):
            said = f"not bitwise what an uninterrupted run gives, but up to rounding: {'; '.join(differing)}"
            changed.setdefault(said, []).append(str(directory))
        records.write_json(path, now)
    for said, where in changed.items():
        logging.getLogger(__name__).warning("%s (%s)", said, ", ".join(where))


def end(directory: Path, circumstances: Mapping[str, Any], **outcome: Any) -> None:
    """Notes how the run has ended; from then on it is only read."""
    if hosts.is_first():
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
    need("tensorboardX", extra="tensorboard")
    from tensorboardX import SummaryWriter

    return SummaryWriter
