import functools
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import elu
from relujax import environment, loop, records, runner
from relujax.data import Data, UnitRange
from relujax.errors import InputError
from relujax.models.mlp import MLP, Autoencoder
from relujax.models.resnet import ResNet
from relujax.probes import MedianActivation, UnitMedians
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.study import Study, adapt
from relujax.trial import Trial

ROOT = Path(__file__).parents[1]

TRIAL = Trial(
    model=MLP(depth=2, width=16, num_classes=10, activation="elu"),
    data=Data(name="digits", normalize=UnitRange(), validation=200),
    recipe=Recipe(length=Epochs(4), batch_size=64, optimizer=Sgd(momentum=0.9), schedule=Constant(0.05)),
    probes=(MedianActivation(), UnitMedians()),
)


def numbers(run):
    """A run's curves without wall-clock fields."""
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in run.history]


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Many tests train the same trial."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "compile_programs", functools.cache(loop.compile_programs))
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return runner.fit(TRIAL, seeds=(0, 1), workdir=tmp_path_factory.mktemp("whole"))


def test_fit_learns_and_records_every_epoch(uninterrupted):
    for run in uninterrupted:
        assert run.status == "done"
        assert [epoch["epoch"] for epoch in run.history] == [1, 2, 3, 4]
        assert [epoch["step"] for epoch in run.history] == [19, 38, 57, 76]  # 1,237 images in batches of 64
        assert run.last("train_loss") < run.history[0]["train_loss"]
        assert run.last("test_error") < 0.2
        assert np.isnan(run.curve("test_error")[:3]).all()  # held out until the end
        assert run.unit_values["unit_medians"].shape == (4, 32)
        assert run.environment["dataset"] == "digits" and run.environment["jax"]
    assert numbers(uninterrupted[0]) != numbers(uninterrupted[1])


def test_a_finished_run_is_only_read(uninterrupted, tmp_path, monkeypatch):
    runner.fit(TRIAL, seeds=(0,), workdir=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
    again = runner.fit(TRIAL, seeds=(0,), workdir=tmp_path)
    assert numbers(again[0]) == numbers(uninterrupted[0])
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_groups_of_as_many_runs_share_what_is_compiled(tmp_path, monkeypatch):
    compile_programs, groups = loop.compile_programs, []

    def noting(trial, mesh, *args, **options):
        groups.append(mesh.shape["run"])
        return compile_programs(trial, mesh, *args, **options)

    monkeypatch.setattr(loop, "compile_programs", noting)
    trial = replace(TRIAL, recipe=replace(TRIAL.recipe, length=Epochs(1)))
    assert len(runner.fit(trial, seeds=range(5), workdir=tmp_path)) == 5
    assert groups == [2, 1]  # on two devices: (0, 1) and (2, 3), then 4


class Killed(BaseException):
    pass


def test_a_run_killed_between_checkpoints_goes_on_and_ends_the_same(uninterrupted, tmp_path, monkeypatch):
    append, calls = records.append_epoch, []

    def append_until_killed(*args):
        append(*args)
        calls.append(args)
        if len(calls) == 6:  # both runs' third epoch is on disk, its checkpoint is not
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(records, "append_epoch", append_until_killed)
        runner.fit(TRIAL, seeds=(0, 1), workdir=tmp_path, checkpoint_every=0)
    directory = records.run_directory(tmp_path, TRIAL, 0)
    assert len(records.read_history(directory)) == 3 and not records.is_finished(directory)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "tra')  # cut in half
    resumed = runner.fit(TRIAL, seeds=(0, 1), workdir=tmp_path)
    assert [numbers(run) for run in resumed] == [numbers(run) for run in uninterrupted]
    for ours, theirs in zip(resumed, uninterrupted):
        np.testing.assert_array_equal(ours.unit_values["unit_medians"], theirs.unit_values["unit_medians"])


def test_a_diverged_run_is_marked_with_its_step_and_the_others_go_on(uninterrupted, tmp_path, monkeypatch):
    compile_programs = loop.compile_programs

    def with_one_bad_loss(*args, **options):
        programs = compile_programs(*args, **options)

        def epoch(states, seeds, train, pause):
            states = programs.epoch(states, seeds, train, pause)
            bad = (states.step == 2 * 19) & (seeds == 1)
            return replace(states, diverged_at=jnp.where(bad, 19 + 7, states.diverged_at))

        return replace(programs, epoch=epoch)

    monkeypatch.setattr(loop, "compile_programs", with_one_bad_loss)
    good, bad = runner.fit(TRIAL, seeds=(0, 1), workdir=tmp_path)
    assert good.status == "done" and numbers(good) == numbers(uninterrupted[0])
    assert bad.status == "diverged" and bad.diverged_at_step == 19 + 7
    assert len(bad.history) == 1


def test_a_learning_rate_that_is_too_large_ends_as_diverged(tmp_path):
    recipe = replace(TRIAL.recipe, schedule=Constant(1e3), loss="squared_error")
    trial = replace(TRIAL, recipe=recipe, probes=(), model=Autoencoder(activation="relu", output="identity"))
    (run,) = runner.fit(trial, seeds=(0,), workdir=tmp_path)
    assert run.status == "diverged" and 1 <= run.diverged_at_step <= 19


def test_an_autoencoder_watches_the_test_images_every_epoch(tmp_path):
    data = replace(TRIAL.data, validation=0)
    recipe = replace(TRIAL.recipe, schedule=Constant(1e-4), loss="squared_error")
    trial = Trial(model=Autoencoder(activation="elu", widths=(16,), code=4), data=data, recipe=recipe)
    (run,) = runner.fit(trial, seeds=(0,), workdir=tmp_path)
    assert np.isfinite(run.curve("test_loss")).all() and "test_error" not in run.history[0]
    assert run.last("train_loss") < run.history[0]["train_loss"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"validation": 1437}, "validation must be between 0 and 1436.*got 1437"),
        ({"validation": -1}, "got -1"),
        ({"name": "digit"}, "unknown dataset 'digit': did you mean 'digits'"),
    ],
)
def test_data_that_cannot_be_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        runner.fit(replace(TRIAL, data=replace(TRIAL.data, **change)), seeds=(0,), workdir=tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_directory_that_holds_another_trial_is_refused_with_the_fields(tmp_path):
    directory = records.run_directory(tmp_path, TRIAL, 0)
    records.open_run(directory, replace(TRIAL, recipe=replace(TRIAL.recipe, batch_size=32)))
    with pytest.raises(InputError, match=r"recipe.batch_size: 32, now 64"):
        runner.fit(TRIAL, seeds=(0,), workdir=tmp_path)


def test_a_study_run_with_other_settings_is_refused_with_the_fields(tmp_path):
    short = adapt(elu.fig_2_median_activation(), epochs=1, runs=1, data="digits")
    runner.run(short, name="fig", workdir=tmp_path, only=("ELU",))
    longer = adapt(elu.fig_2_median_activation(), epochs=2, runs=1, data="digits")
    with pytest.raises(InputError, match=r"ELU.recipe.length.count: 1, now 2.*another workdir"):
        runner.run(longer, name="fig", workdir=tmp_path)


def test_a_study_that_gained_a_row_goes_on_in_its_workdir(tmp_path):
    study = adapt(elu.fig_2_median_activation(), epochs=1, runs=1, data="digits")
    fewer = replace(study, trials={"ELU": study.trials["ELU"]}, claims=(), panels=())
    before = runner.run(fewer, name="fig", workdir=tmp_path)
    after = runner.run(study, name="fig", workdir=tmp_path, only=("ELU",))
    assert after["ELU"][0].history == before["ELU"][0].history


def test_runs_of_other_code_are_read_with_a_word_about_it(tmp_path, monkeypatch, caplog):
    study = adapt(elu.fig_2_median_activation(), epochs=1, runs=1, data="digits")
    runner.run(study, name="fig", workdir=tmp_path, only=("ELU", "ReLU"))
    runner.run(study, name="fig", workdir=tmp_path, only=("ELU",))
    assert not caplog.messages
    monkeypatch.setattr(runner, "code_of", lambda model: "changed")
    again = runner.run(study, name="fig", workdir=tmp_path, only=("ELU",))["ELU"]
    (said,) = caplog.messages
    assert said.startswith("trained by other code of relujax than today's: ReLU (") and again[0].status == "done"
    assert ") and 1 more of 3 rows; to do it again" in said


def test_code_is_known_by_what_it_does(tmp_path, monkeypatch):
    def digest(text):
        (tmp_path / "formula.py").write_text(text)
        return environment._code.__wrapped__(("formula",))

    monkeypatch.syspath_prepend(tmp_path)
    before = digest('"""One."""\n\n\ndef double(x):\n    """Two."""\n    return 2 * x\n')
    assert digest("def double(x):\n    # twice\n    return (2 * x)\n") == before
    assert digest("def double(x):\n    return 3 * x\n") != before
    assert (
        environment.code_of(TRIAL.model) != environment.code_of(ResNet(8, 10)) == environment.code_of(ResNet(14, 100))
    )


def test_a_network_that_cannot_be_built_stops_the_study_before_its_first_row_trains(tmp_path):
    trials = {"good": TRIAL, "bad": replace(TRIAL, model=ResNet(21, 10), probes=())}
    study = Study(source="mine", question="Does it?", trials=trials, metrics=("train_loss",), runs=1)
    with pytest.raises(InputError, match="depth must be"):
        runner.run(study, workdir=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_probe_written_without_its_epoch_is_left_out(tmp_path):
    folder = tmp_path / "probes" / "medians"
    folder.mkdir(parents=True)
    np.save(folder / "00001.npy", np.zeros(3))
    assert records.read_run(tmp_path, TRIAL, 0).unit_values == {}


def test_a_damaged_result_is_named(tmp_path):
    runner.fit(replace(TRIAL, recipe=TRIAL.recipe.lasting(1)), seeds=(0,), workdir=tmp_path)
    (path,) = tmp_path.glob("runs/*/seed_0/result.json")
    path.write_text("{")
    with pytest.raises(InputError, match=r"result\.json is damaged"):
        runner.fit(replace(TRIAL, recipe=TRIAL.recipe.lasting(1)), seeds=(0,), workdir=tmp_path)


def test_no_seed_is_no_run(tmp_path):
    assert runner.fit(TRIAL, seeds=[], workdir=tmp_path) == [] and not any(tmp_path.iterdir())
