"""Faults that cost seconds to inject: a stopped epoch, a bad batch, a broken tracker, a row that cannot be trained."""

import hashlib
import itertools
import json
import signal
import socket
from contextlib import contextmanager
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_preemption import CONVOLUTIONAL, DENSE, signalled

from relujax import datasets, loop, progress, records, runner, tables, train
from relujax.checkpoint import newest
from relujax.data import Data, UnitRange
from relujax.errors import InputError
from relujax.models.mlp import MLP
from relujax.preemption import Preempted
from relujax.recipe import Constant, Sgd, make_optimizer
from relujax.study import Study
from relujax.train import Split, epoch_order, init_state


def order(trial, count, seed, epoch):
    """Which images each step of an epoch trains on, (steps, batch size)."""
    steps = count // trial.recipe.batch_size
    image = jax.ShapeDtypeStruct((1, 28, 28, 1), "uint8")
    optimizer = make_optimizer(trial.recipe, steps)
    state = jax.eval_shape(lambda images: init_state(trial, optimizer, np.int32(seed), images), image)
    state = replace(state, step=jnp.int32(epoch * steps + 3 % steps))  # in the middle of it
    return np.asarray(epoch_order(trial, count, state, jnp.int32(seed)))


@pytest.mark.parametrize(
    "seed, epoch, digest",
    [(0, 0, "c225c3555fe4c52a"), (0, 1, "3688cc3099b2eb72"), (1, 0, "bef5fa988f10d61e"), (7, 299, "fd0e8e7bdb31731d")],
)
def test_the_order_of_the_images_is_the_stored_one(seed, epoch, digest):
    """F37: the same on every system, whatever the device count and the step that was resumed from."""
    found = order(DENSE, 1437, seed, epoch)
    assert found.shape == (11, 128) and len(np.unique(found)) == found.size
    assert hashlib.sha256(found.astype("<i4").tobytes()).hexdigest()[:16] == digest


@contextmanager
def noted_programs(monkeypatch):
    """All that the runner hands to jax.jit."""
    jit, compiled, compile_programs = jax.jit, [], train.compile_programs

    def noting(*args, **options):
        compiled.append(jit(*args, **options))
        return compiled[-1]

    def programs(*args, **options):
        with monkeypatch.context() as patched:
            patched.setattr(jax, "jit", noting)
            return compile_programs(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "compile_programs", programs)
        yield compiled


def test_a_resumed_run_takes_the_batches_of_the_uninterrupted_one(tmp_path, monkeypatch):
    """F5, F22: stopped in the middle of an epoch; index hashes of every step to the end of the next one."""
    taken = []

    def noting(images, chosen):
        if isinstance(chosen, np.ndarray) and chosen.shape == (1, 128):  # a training batch of one run
            taken.append(hashlib.sha256(chosen.tobytes()).hexdigest())
        return take(images, chosen)

    take = Split.take
    monkeypatch.setattr(Split, "take", noting)
    with monkeypatch.context() as patched, pytest.raises(Preempted):
        signalled(patched, 7, signal.SIGINT)
        runner.fit(CONVOLUTIONAL, seeds=(0,), workdir=tmp_path)
    with noted_programs(monkeypatch) as compiled:
        runner.fit(CONVOLUTIONAL, seeds=(0,), workdir=tmp_path)
    expected = [row.tobytes() for epoch in (0, 1) for row in order(CONVOLUTIONAL, 1437, 0, epoch)[:, None]]
    assert taken == [hashlib.sha256(row).hexdigest() for row in expected]
    assert sorted(program._cache_size() for program in compiled) == [0, 0, 1, 1, 1]  # no fresh states, no probe


def test_a_resumed_run_compiles_an_epoch_once(tmp_path, monkeypatch):
    """F22: also where the last batch of an epoch, of 1,437 images in batches of 128, is not whole."""
    trial = replace(DENSE, recipe=DENSE.recipe.lasting(3))
    with monkeypatch.context() as patched, pytest.raises(Preempted):
        signalled(patched, 1, signal.SIGINT)
        runner.fit(trial, seeds=(0, 1), workdir=tmp_path)
    with noted_programs(monkeypatch) as compiled:
        runner.fit(trial, seeds=(0, 1), workdir=tmp_path)
    assert sorted(program._cache_size() for program in compiled)[-3:] == [0, 1, 1]  # whole epochs and what they gave


@dataclass(frozen=True)
class OneBadImage(UnitRange):
    """Not a number where an image has this sum."""

    total: int = 0

    def __call__(self, images):
        bad = jnp.sum(jnp.asarray(images, jnp.int32), axis=(1, 2, 3), keepdims=True) == self.total
        return jnp.where(bad, jnp.nan, super().__call__(images))


def test_a_bad_batch_is_seen_in_its_step_and_shown(tmp_path):
    """F20, F41: the step of the batch with the image; the table counts one run less, and the others are as ever."""
    images = datasets.load("digits").train_images
    totals = images.astype(np.int32).sum(axis=(1, 2, 3))
    first = order(DENSE, 1437, 0, 0)
    victim = next(i for i in first[6] if (totals == totals[i]).sum() == 1)
    bad = replace(DENSE, data=Data(name="digits", normalize=OneBadImage(total=int(totals[victim]))))
    study = Study(source="f20", question="?", trials={"good": DENSE, "bad": bad}, metrics=("test_error",), runs=1)
    results = runner.run(study, workdir=tmp_path)
    assert results["bad"][0].status == "diverged" and results["bad"][0].diverged_at_step == 7
    assert results["good"][0].status == "done"
    good, failed = tables.table(study, results, "text").splitlines()[-2:]
    assert "1/1" in good and "0/1" in failed and "1 (step 7)" in failed


@dataclass(frozen=True)
class OutOfMemory(UnitRange):
    """Raises as a device does."""

    def __call__(self, images):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


def test_a_row_that_cannot_be_trained_does_not_stop_the_others(tmp_path, caplog):
    """F45 in one process: noted until the run is done."""
    bad = replace(DENSE, data=Data(name="digits", normalize=OutOfMemory()))
    study = Study(source="f45", question="?", trials={"bad": bad, "good": DENSE}, metrics=("test_error",), runs=1)
    results = runner.run(study, workdir=tmp_path)
    assert results["good"][0].status == "done"
    assert results["bad"][0].status == "unfinished" and "RESOURCE_EXHAUSTED" in results["bad"][0].failure
    assert results["bad"][0].failure.endswith("with --remat, or with the runs in turn (--together map)")
    assert "bad is given up" in caplog.text
    directory = records.run_directory(tmp_path, bad, 0)
    records.write_json(directory / "result.json", {"status": "done"})
    records.note_failure(directory, "")
    assert not (directory / "failure.json").exists()


CHANGES = {
    "model.activation": replace(DENSE, model=MLP(2, 16, 10, "relu")),
    "model.dtype": replace(DENSE, model=MLP(2, 16, 10, "elu", dtype="bfloat16")),
    "recipe.batch_size": replace(DENSE, recipe=replace(DENSE.recipe, batch_size=64)),
    "recipe.length.count": replace(DENSE, recipe=DENSE.recipe.lasting(3)),
    "recipe.optimizer.momentum": replace(DENSE, recipe=replace(DENSE.recipe, optimizer=Sgd(momentum=0.5))),
    "recipe.schedule": replace(DENSE, recipe=replace(DENSE.recipe, schedule=Constant(0.5))),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_setting_is_refused_and_nothing_written(field, tmp_path):
    """F7."""

    def study(trial):
        return Study(source="f7", question="?", trials={"row": trial}, metrics=("test_error",), runs=2)

    description = {"trials": {"row": runner.describe(DENSE)}, "overrides": {}, "runs": 2, "rehearsal": []}
    records.note_study(tmp_path, "f7", json.loads(json.dumps(description)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=rf"row\.{field}"):
        runner.run(study(CHANGES[field]), workdir=tmp_path, name="f7")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_tracker_that_fails_is_given_up_and_the_runs_go_on(tmp_path, monkeypatch, caplog):
    """F43."""

    class Broken:
        def __init__(self, *args, **options):
            pass

        def add_scalar(self, *args, **options):
            raise ConnectionError("no network")

        close = add_scalar

    monkeypatch.setattr(loop, "tensorboard_writer", lambda: Broken)
    (run,) = runner.fit(DENSE, seeds=(0,), workdir=tmp_path, tensorboard=True)
    assert run.status == "done" and len(run.history) == 2
    assert 1 <= caplog.text.count("no network") <= 2  # once while it trains, once when it closes


def test_training_needs_no_network(tmp_path, monkeypatch):
    """F38."""

    def refuse(*args, **options):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert runner.fit(DENSE, seeds=(0,), workdir=tmp_path)[0].status == "done"


def test_test_images_are_read_once_after_the_last_epoch(tmp_path, monkeypatch):
    """F37: where images are held out."""
    read, splits = [], loop.splits

    class Counted(Split):
        pass

    def counted(trial, dataset):
        parts = splits(trial, dataset)
        return parts | {"test": Counted(parts["test"].images, parts["test"].labels)}

    def placed(images, mesh):
        if isinstance(images, Counted):
            (run,) = tmp_path.glob("runs/*/seed_0")
            read.append(len(records.read_history(run)))
            images = Split(images.images, images.labels)
        return place(images, mesh)

    place = loop._placed
    monkeypatch.setattr(loop, "splits", counted)
    monkeypatch.setattr(loop, "_placed", placed)
    trial = replace(DENSE, data=replace(DENSE.data, validation=200), recipe=DENSE.recipe.lasting(3))
    runner.fit(trial, seeds=(0,), workdir=tmp_path)
    assert read == [2]  # two epochs are recorded, the last is about to be


def test_numbers_that_are_none_are_never_saved(tmp_path, monkeypatch):
    """F19: the last finite checkpoint stays the newest."""
    compile_programs = loop.compile_programs

    def with_infinite_moments(*args, **options):
        programs = compile_programs(*args, **options)

        def epoch(states, seeds, images, pause):
            states = programs.epoch(states, seeds, images, pause)
            late = states.step[0] > 11
            return replace(
                states, opt_state=jax.tree.map(lambda leaf: jnp.where(late, jnp.inf, leaf), states.opt_state)
            )

        return replace(programs, epoch=epoch)

    monkeypatch.setattr(loop, "compile_programs", with_infinite_moments)
    runner.fit(DENSE, seeds=(0,), workdir=tmp_path, checkpoint_every=0)
    assert newest(records.run_directory(tmp_path, DENSE, 0)) == 11


def test_output_that_is_no_terminal_gets_two_lines_a_minute(monkeypatch, capsys):
    """F46: an epoch a second for ten minutes."""
    clock = itertools.count()
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)) / 2)  # read twice per epoch
    with progress.progress(10_000, 0) as report:
        for _ in range(600):
            report("row", runs=1, images=1, loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert 15 <= len(lines) <= 21 and lines[-1].startswith("row: ")
    assert lines[0].endswith(" h left") and lines[-1].endswith("2.6 h left")
