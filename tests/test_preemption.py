"""SIGTERM and Ctrl-C at any step: everything is saved, the same call goes on, and ends as if nothing had been."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.__main__ import STUDIES
from relujax import datasets, loop, records, runner
from relujax.checkpoint import Checkpoints, newest
from relujax.cli import main
from relujax.data import Data, Flip, UnitRange
from relujax.errors import InputError
from relujax.models.mlp import MLP
from relujax.models.plain import Plain
from relujax.preemption import Interrupt, Preempted, noted_signals
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.train import compile_programs, init_state, make_optimizer
from relujax.trial import Trial

RECIPE = Recipe(length=Epochs(2), batch_size=128, optimizer=Sgd(momentum=0.9), schedule=Constant(0.05))
DIGITS = Data(name="digits", normalize=UnitRange(), augment=(Flip(),))
CONVOLUTIONAL = Trial(model=Plain(5, 10), data=DIGITS, recipe=RECIPE)  # 11 steps an epoch, taken one by one
DENSE = Trial(model=MLP(2, 16, 10, "elu"), data=DIGITS, recipe=RECIPE)  # an epoch is one program
RUN = ["run", "elu.fig_2_median_activation", "--data", "digits", "--epochs", "2", "--runs", "1", "--only", "ELU"]


def outcome(trial, workdir, seed):
    """The curves of a finished run without wall-clock fields, and its final state."""
    directory = records.run_directory(workdir, trial, seed)
    history = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in records.read_history(directory)]
    images = jax.ShapeDtypeStruct((1, 28, 28, 1), "uint8")
    like = jax.eval_shape(
        lambda images: init_state(trial, make_optimizer(trial.recipe, 11), np.int32(0), images), images
    )
    checkpoints = Checkpoints(directory)
    state = checkpoints.restore(newest(directory), like)
    checkpoints.close()
    return history, state


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Many tests train the same two trials."""
    with pytest.MonkeyPatch.context() as patched:
        cached = functools.cache(compile_programs)
        patched.setattr(loop, "compile_programs", cached)
        patched.setattr(sys.modules[__name__], "compile_programs", cached)
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    for trial in (CONVOLUTIONAL, DENSE):
        runner.fit(trial, seeds=(0, 1), workdir=workdir)
    return workdir


def signalled(monkeypatch, at, number):
    """From here on, the signal comes after so many steps or, where an epoch is one program, epochs."""
    asked = []

    def programs_with_signal(*args, **options):
        programs = compile_programs(*args, **options)

        def epoch(states, seeds, train, pause):
            def noting(steps):
                asked.append(True)
                if len(asked) == at:
                    signal.raise_signal(number)
                return pause(steps)

            before = len(asked)
            states = programs.epoch(states, seeds, train, noting)
            if len(asked) == before:
                noting(programs.steps_per_call)
            return states

        return replace(programs, epoch=epoch)

    monkeypatch.setattr(loop, "compile_programs", programs_with_signal)


@pytest.mark.parametrize(
    "trial, at, number, steps",
    [
        (CONVOLUTIONAL, 7, signal.SIGINT, 7),  # in the middle of an epoch
        (CONVOLUTIONAL, 11, signal.SIGTERM, 11),  # its last step
        (DENSE, 1, signal.SIGTERM, 11),
    ],
    ids=["middle of an epoch", "last step of an epoch", "epoch in one program"],
)
def test_a_signal_ends_within_a_step_and_the_same_call_ends_the_same(
    uninterrupted, tmp_path, monkeypatch, trial, at, number, steps
):
    with monkeypatch.context() as patched, pytest.raises(Preempted):
        signalled(patched, at, number)
        runner.fit(trial, seeds=(0, 1), workdir=tmp_path)
    for seed in (0, 1):
        directory = records.run_directory(tmp_path, trial, seed)
        assert newest(directory) == steps and not records.is_finished(directory)
        assert len(records.read_history(directory)) == steps // 11
    runner.fit(trial, seeds=(0, 1), workdir=tmp_path)
    for seed in (0, 1):
        jax.tree.map(np.testing.assert_array_equal, outcome(trial, tmp_path, seed), outcome(trial, uninterrupted, seed))


def test_a_run_that_was_stopped_within_an_epoch_goes_on_where_an_epoch_is_one_program(
    uninterrupted, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched, pytest.raises(Preempted):
        signalled(patched, 7, signal.SIGTERM)
        runner.fit(DENSE, seeds=(0,), workdir=tmp_path, calls="step")
    runner.fit(DENSE, seeds=(0,), workdir=tmp_path)
    history, state = outcome(DENSE, tmp_path, 0)
    expected, expected_state = outcome(DENSE, uninterrupted, 0)
    assert [epoch["step"] for epoch in history] == [11, 22]
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), (history, state), (expected, expected_state)
    )


def test_a_run_that_goes_on_with_other_code_says_so(tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patched, pytest.raises(Preempted):
        signalled(patched, 1, signal.SIGTERM)
        runner.fit(DENSE, seeds=(0,), workdir=tmp_path)
    noted = records.run_directory(tmp_path, DENSE, 0) / "environment.json"
    records.write_json(noted, {**records.read_json(noted), "code": "before"})
    runner.fit(DENSE, seeds=(0,), workdir=tmp_path)
    (said,) = caplog.messages
    assert said == f"goes on with other code of relujax than it began with ({noted.parent})"


def test_a_run_does_not_go_on_with_other_images_of_the_same_name(tmp_path, monkeypatch):
    load, later = datasets.load, replace(DENSE, start_from=DENSE)

    def refused():
        with (
            monkeypatch.context() as patched,
            pytest.raises(InputError, match=r"trained on digits.*use another workdir"),
        ):
            other = {"label": "digits, drawn anew", "digest": "f" * 64}
            patched.setattr(datasets, "load", lambda *given: replace(load(*given), **other))
            runner.fit(later, seeds=(0,), workdir=tmp_path)

    with monkeypatch.context() as patched, pytest.raises(Preempted):
        signalled(patched, 1, signal.SIGTERM)
        runner.fit(later, seeds=(0,), workdir=tmp_path)
    refused()
    runner.fit(DENSE, seeds=(0,), workdir=tmp_path)
    refused()


def test_a_checkpoint_after_every_step_changes_nothing(uninterrupted, tmp_path, monkeypatch):
    saved, save = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, state: (saved.append(step), save(self, step, state)))
    runner.fit(CONVOLUTIONAL, seeds=(1,), workdir=tmp_path, checkpoint_every=0)
    assert saved == list(range(1, 23))
    ours, theirs = outcome(CONVOLUTIONAL, tmp_path, 1), outcome(CONVOLUTIONAL, uninterrupted, 1)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_an_error_of_a_checkpoint_ends_the_run_at_the_next_step(tmp_path, monkeypatch):
    """F15: not at the next checkpoint, which may be minutes away."""
    save, taken, seconds = Checkpoints.save, [], iter([0.0])

    def full(directory, step):
        raise OSError(28, "No space left on device")

    def saved(self, step, state):
        save(self, step, state)
        wait([self._saving])

    def watched(*args, **options):
        programs = compile_programs(*args, **options)

        def epoch(states, seeds, train, pause):
            return programs.epoch(states, seeds, train, lambda steps: taken.append(True) or pause(steps))

        return replace(programs, epoch=epoch)

    monkeypatch.setattr("relujax.checkpoint._seal", full)
    monkeypatch.setattr(Checkpoints, "save", saved)
    monkeypatch.setattr(loop, "compile_programs", watched)
    # The first checkpoint is due at once, the second never.
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(seconds, 1e6)))
    with pytest.raises(OSError, match="No space left on device"):
        runner.fit(CONVOLUTIONAL, seeds=(0,), workdir=tmp_path, checkpoint_every=1e5)
    assert len(taken) == 2


def test_a_preempted_command_ends_with_3_and_goes_on(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patched:
        signalled(patched, 1, signal.SIGTERM)
        assert main(STUDIES, [*RUN, "--workdir", str(tmp_path)]) == 3
    assert "the same command again" in capsys.readouterr().err
    assert main(STUDIES, [*RUN, "--workdir", str(tmp_path)]) == 0
    assert "1/1" in capsys.readouterr().out


def test_sigterm_to_a_process_that_has_not_begun_to_train_is_preemption_too(tmp_path):
    command = [sys.executable, "-m", "experiments", *RUN, "--workdir", str(tmp_path / "w")]
    command[command.index("--epochs") + 1] = "5000"
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("w/runs/*/seed_0/trial.json")) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "Traceback" not in errors


def test_a_signal_whose_exception_got_lost_is_obeyed_at_the_first_step():
    handler = Interrupt()
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with noted_signals() as asked:
            assert not asked.is_set()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with noted_signals() as asked:
            assert asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_that_is_being_trained_elsewhere_is_refused(tmp_path):
    directory = records.run_directory(tmp_path, DENSE, 0)
    with records.locked([directory]), pytest.raises(InputError, match="another process is training"):
        runner.fit(DENSE, seeds=(0,), workdir=tmp_path)
    assert runner.fit(DENSE, seeds=(0,), workdir=tmp_path)[0].status == "done"


def test_a_duration_that_is_none_is_refused(tmp_path, capsys):
    assert main(STUDIES, [*RUN, "--workdir", str(tmp_path), "--checkpoint-every", "soon"]) == 2
    assert "e.g. 5m; got 'soon'" in capsys.readouterr().err
