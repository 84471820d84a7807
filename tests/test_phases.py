"""Trials that start from another one, as the fine-tuning phases of the ELU paper's Table 1 do."""

import functools
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import linen as nn
from interrupted import killed_after_noting, numbers

from experiments import elu
from relujax import loop, records, runner, tables
from relujax.data import Data, UnitRange
from relujax.errors import InputError
from relujax.initializers import he_normal
from relujax.layers import Activation, batch_norm, dense, flatten
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.study import Study, adapt
from relujax.trial import Trial, trial_id


class Net(nn.Module):
    """What a phase may change, dropout, and all that it has to hand on: weights and BatchNorm statistics."""

    dropout: float

    @nn.compact
    def __call__(self, images, *, train):
        x = dense(flatten(images), 16, kernel_init=he_normal, name="dense1")
        x = Activation("elu", name="act1")(batch_norm(x, train, name="bn1"), train=train)
        x = nn.Dropout(self.dropout, deterministic=not train, name="dropout1")(x)
        return dense(x, 10, kernel_init=he_normal, name="head")


FIRST = Trial(
    model=Net(dropout=0.1),
    data=Data(name="digits", normalize=UnitRange()),
    recipe=Recipe(length=Epochs(3), batch_size=64, optimizer=Sgd(momentum=0.9), schedule=Constant(0.05)),
)
SECOND = replace(
    FIRST,
    model=Net(dropout=0.3),
    recipe=replace(FIRST.recipe, length=Epochs(2), schedule=Constant(0.005)),
    start_from=FIRST,
)
STUDY = Study(source="Test", question="Does it go on?", trials={"row": SECOND}, metrics=("test_error",), runs=2)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Nine tests train the same few trials."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "compile_programs", functools.cache(loop.compile_programs))
        yield


@pytest.fixture
def watched(monkeypatch):
    """Every epoch that is trained from here on: (trial, seeds, states before it, states after it)."""
    compile_programs, epochs = loop.compile_programs, []

    def watching(trial, *args, **options):
        programs = compile_programs(trial, *args, **options)

        def epoch(states, seeds, *rest):
            before = jax.device_get(states)  # the programs take its memory
            states = programs.epoch(states, seeds, *rest)
            epochs.append((trial, [int(seed) for seed in seeds], before, jax.device_get(states)))
            return states

        return replace(programs, epoch=epoch)

    monkeypatch.setattr(loop, "compile_programs", watching)
    return epochs


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return runner.fit(SECOND, seeds=(0, 1), workdir=tmp_path_factory.mktemp("whole"))


def test_a_phase_begins_with_the_final_weights_of_the_one_before_and_with_nothing_else(tmp_path, watched):
    runner.fit(SECOND, seeds=(0, 1), workdir=tmp_path)
    assert [trial for trial, *_ in watched] == [FIRST] * 3 + [SECOND] * 2
    first, second = watched[2][3], watched[3][2]
    for ours, theirs in ((second.params, first.params), (second.batch_stats, first.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert first.step.tolist() == [66, 66] and second.step.tolist() == [0, 0]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(second.opt_state))  # neither momentum nor count
    assert any(np.any(leaf) for leaf in jax.tree.leaves(first.opt_state))
    weights = second.params["head"]["kernel"]
    assert not np.array_equal(weights[0], weights[1])


def test_each_run_goes_on_from_its_own_seed(uninterrupted, tmp_path, watched):
    """Seed 1 ends its first phase alone and early; the batch of both then takes each from where it is."""
    runner.fit(FIRST, seeds=(1,), workdir=tmp_path)
    again = runner.fit(SECOND, seeds=(1, 0), workdir=tmp_path)
    assert [seeds for trial, seeds, *_ in watched if trial == FIRST] == [[1]] * 3 + [[0]] * 3
    for run, whole in zip(again, reversed(uninterrupted), strict=True):
        assert run.seed == whole.seed
        for ours, theirs in zip(numbers(run), numbers(whole), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_phase_that_two_rows_start_from_is_trained_once(tmp_path, watched):
    other = replace(SECOND, recipe=SECOND.recipe.lasting(1))
    results = runner.run(replace(STUDY, trials={"row": SECOND, "other": other}), name="test", workdir=tmp_path)
    assert [trial for trial, *_ in watched] == [FIRST] * 3 + [SECOND] * 2 + [other]
    assert [len(run.history) for runs in results.values() for run in runs] == [2, 2, 1, 1]
    assert len(list(tmp_path.glob("runs/*/seed_*/result.json"))) == 6


def test_what_starts_from_a_diverged_run_has_diverged_at_step_0(uninterrupted, tmp_path, monkeypatch, watched):
    directory = records.run_directory(tmp_path, FIRST, 1)
    records.open_run(directory, FIRST)
    loop.end(directory, {"dataset": "digits"}, status="diverged", diverged_at_step=7)
    results = runner.run(STUDY, name="test", workdir=tmp_path)
    good, bad = results["row"]
    assert good.status == "done"
    assert numbers(good) == [pytest.approx(epoch, rel=1e-5) for epoch in numbers(uninterrupted[0])]
    assert (bad.status, bad.diverged_at_step, bad.history) == ("diverged", 0, ())
    assert all(seeds == [0] for _, seeds, *_ in watched)
    assert {"1/2", "1 (step 0)"} <= set(re.split(r"\s{2,}|\n", tables.table(STUDY, results, "text")))
    trained = len(watched)
    assert runner.run(STUDY, name="test", workdir=tmp_path)["row"][1].diverged_at_step == 0
    assert len(watched) == trained


@pytest.mark.parametrize("epoch", [2, 4, 5])  # in the first phase, in the first and the last epoch of the second
def test_phases_killed_at_any_epoch_go_on_and_end_the_same(uninterrupted, tmp_path, epoch):
    with killed_after_noting(2 * epoch):  # of both runs
        runner.run(STUDY, name="test", workdir=tmp_path, checkpoint_every=0)
    resumed = runner.run(STUDY, name="test", workdir=tmp_path)["row"]
    assert [numbers(run) for run in resumed] == [numbers(run) for run in uninterrupted]


def test_a_phase_whose_predecessor_is_only_a_record_is_refused_before_anything_is_written(tmp_path):
    directory = records.run_directory(tmp_path, FIRST, 1)
    records.open_run(directory, FIRST)
    loop.end(directory, {}, status="done")
    with pytest.raises(InputError, match="seed_1 has ended, but has no checkpoint to start from; remove it"):
        runner.run(STUDY, name="test", workdir=tmp_path)
    assert len(list(tmp_path.rglob("*.json"))) == 2  # that run's trial and result


def test_every_phase_of_the_paper_is_shortened_and_moved_together():
    study = adapt(elu.table_1_cifar100(), epochs=2, runs=1, data="digits")
    third = study.trials["ELU-Network"]
    phases = [third, third.start_from, third.start_from.start_from]
    assert all(phase.recipe.length.count == 2 and phase.data.name == "digits" for phase in phases)
    assert all(phase.model.num_classes == 10 for phase in phases) and phases[2].start_from is None
    assert [len(set(map(id, phases))), len({str(phase.model.dropout) for phase in phases})] == [3, 3]


def test_a_phase_is_another_run_than_the_same_net_from_scratch():
    assert trial_id(SECOND) != trial_id(replace(SECOND, start_from=None))
