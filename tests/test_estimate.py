from dataclasses import replace

import numpy as np
import pytest

from relujax import datasets, estimate
from relujax.data import Data, UnitRange
from relujax.models.mlp import MLP
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.trial import RunResult, Trial

TRIAL = Trial(
    model=MLP(depth=1, width=4, num_classes=10, activation="relu"),
    data=Data(name="digits", normalize=UnitRange(), validation=137),
    recipe=Recipe(length=Epochs(3), batch_size=100, optimizer=Sgd(), schedule=Constant(0.1)),
)


def test_the_expected_time_counts_steps_evaluations_epochs_and_runs(monkeypatch):
    def taken(calls, **_):
        for call in calls.values():
            call()  # they work
        return {"steps": np.array([2.0]), "evaluation": np.array([1.0])}

    monkeypatch.setattr(estimate, "seconds_per_call", taken)
    # 1437 training images of which 137 are held out: 13 steps of 0.01 s, and 137 of 20,000 images that take 1 s; three
    # runs on two devices are two groups.
    expected = 2 * 3 * (13 * 2.0 / 200 + 137 / 20_000 * 1.0)
    assert estimate.seconds_of(TRIAL, 3, estimate.Options(devices=2)) == pytest.approx(expected)


def test_images_that_fit_no_device_are_handed_out_step_by_step(monkeypatch):
    facts = replace(datasets.facts_of(TRIAL.data), large=True)
    monkeypatch.setattr(datasets, "facts_of", lambda data: facts)
    seen = []

    def taken(calls, **_):
        for call in calls.values():
            seen.append(call())
        return {"steps": np.array([2.0]), "evaluation": np.array([1.0])}

    monkeypatch.setattr(estimate, "seconds_per_call", taken)
    expected = 2 * 3 * (13 * 2.0 / 4 + 137 / 400 * 1.0)  # as above, but four steps are timed instead of 200
    assert estimate.seconds_of(TRIAL, 3, estimate.Options(devices=2)) == pytest.approx(expected)
    assert seen[0].tolist() == [4, 4]


def test_what_runs_took_is_summed_over_the_phases_of_those_that_have_ended():
    def run(seed, status, *seconds):
        history = tuple({"seconds": second} for second in seconds)
        return RunResult(trial_id="t", seed=seed, status=status, history=history)

    first = [run(0, "done", 1.0), run(1, "done", 10.0), run(2, "done", 1000.0)]
    second = [run(0, "done", 1.5, 2.0), run(1, "done", 3.0), run(2, "unfinished", 100.0)]
    assert estimate.seconds_taken([second]) == (6.5, 2)
    assert estimate.seconds_taken([first, second]) == (17.5, 2)
    assert estimate.seconds_taken([first[:1], second]) == (7.5, 2)  # an earlier run may have been removed


def test_runs_that_diverged_early_say_nothing_of_how_long_a_run_takes():
    runs = [
        RunResult(trial_id="t", seed=0, status="done", history=({"seconds": 4.0}, {"seconds": 5.0})),
        RunResult(trial_id="t", seed=1, status="diverged", history=({"seconds": 1.0},)),
    ]
    assert estimate.seconds_taken([runs]) == (9.0, 1)
