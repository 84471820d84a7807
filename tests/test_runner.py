import functools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interrupted import Killed, killed_after_noting, numbers

from experiments import elu
from relujax import datasets, environment, loop, records, runner
from relujax.data import Data, PerPixelMean, UnitRange
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


def test_a_run_killed_between_checkpoints_goes_on_and_ends_the_same(uninterrupted, tmp_path):
    with killed_after_noting(6):  # both runs' third epoch
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


def test_runs_that_train_at_once_share_the_seconds_of_each_epoch(tmp_path, monkeypatch):
    """A clock that goes on by ten seconds in each epoch of both runs; nothing of an epoch is counted again later."""
    compile_programs, now = loop.compile_programs, [0.0]

    def slow(*args, **options):
        programs = compile_programs(*args, **options)

        def epoch(*given):
            now[0] += 10
            return programs.epoch(*given)

        return replace(programs, epoch=epoch)

    monkeypatch.setattr(loop, "compile_programs", slow)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for run in runner.fit(TRIAL, seeds=(0, 1), workdir=tmp_path):
        assert run.curve("seconds").tolist() == [5.0] * 4


def test_a_run_whose_validation_loss_is_no_number_has_diverged_and_the_other_goes_on(tmp_path, monkeypatch):
    """Its training loss was finite up to the last step of the epoch; the epoch is not recorded."""
    compile_programs = loop.compile_programs

    def with_one_bad_metric(*args, **options):
        programs = compile_programs(*args, **options)

        def measure(states, train, others):
            found = programs.measure(states, train, others)
            bad = (states.step == 2 * 19) & (jnp.arange(2) == 1)
            return found | {"validation_loss": jnp.where(bad, jnp.inf, found["validation_loss"])}

        return replace(programs, measure=measure)

    monkeypatch.setattr(loop, "compile_programs", with_one_bad_metric)
    good, bad = runner.fit(TRIAL, seeds=(0, 1), workdir=tmp_path)
    assert (good.status, len(good.history)) == ("done", 4)
    assert (bad.status, bad.diverged_at_step, len(bad.history)) == ("diverged", 2 * 19, 1)


def test_training_multiplies_matrices_at_the_highest_precision(tmp_path, monkeypatch):
    """Else an accelerator rounds float32 to TF32 or bfloat16, unasked; on CPU nothing shows."""
    seen, train = [], loop.train

    def noting(*args, **options):
        seen.append(jax.config.jax_default_matmul_precision)
        train(*args, **options)

    monkeypatch.setattr(loop, "train", noting)
    runner.fit(replace(TRIAL, recipe=TRIAL.recipe.lasting(1)), seeds=(0,), workdir=tmp_path)
    assert seen == ["highest"]


def test_a_crop_that_is_higher_than_oblong_images_is_refused():
    images, labels = np.zeros((4, 8, 16, 1), np.uint8), np.array([0, 1, 0, 1])
    own = Data.from_arrays(images, labels, test_images=images, test_labels=labels, num_classes=10)
    trial = replace(TRIAL, data=replace(own, crop=12), recipe=replace(TRIAL.recipe, batch_size=2))
    with pytest.raises(InputError, match="crop must be at most 8"):
        runner.check(trial)


def test_a_network_with_fewer_outputs_than_classes_is_refused():
    """A label that has no logit would be taken for another one, without a word."""
    with pytest.raises(InputError, match="digits has 10 classes; the network has only 9 outputs"):
        runner.check(replace(TRIAL, model=TRIAL.model.clone(num_classes=9)))


def test_a_normalisation_is_fitted_to_the_images_that_are_trained_on_alone():
    """Neither to those that are held out nor to those of the test."""
    dataset = datasets.load("digits")
    trial = replace(TRIAL, data=replace(TRIAL.data, normalize=PerPixelMean(), validation=200))
    parts = loop.splits(trial, dataset)
    images = {
        "train": dataset.train_images[:-200],
        "validation": dataset.train_images[-200:],
        "test": dataset.test_images,
    }
    for name, own in images.items():
        expected = own / 255 - images["train"].mean(axis=0) / 255
        np.testing.assert_allclose(parts[name].images, expected, atol=1e-6)


LINES = ['{"epoch": 1, "train_loss": 1.0}', '{"epoch": 2, "train_loss": 0.5}', '{"epoch": 3, "train_loss": 0.4}']


@pytest.mark.parametrize(
    "status, lines, found",
    [
        ("done", [LINES[0], "garbage", *LINES[1:]], "1 of 4 epochs can be read, in 4 lines"),
        ("done", LINES, "3 of 4 epochs can be read, in 3 lines"),
        ("done", [], "0 of 4 epochs can be read, in 0 lines"),
        ("done", [*LINES, '{"loss": 3}'], "4 of 4 epochs can be read"),
        ("diverged", [LINES[0], "garbage"], "1 of 2 epochs can be read, in 2 lines"),
        ("diverged", LINES[1:], "2 of 2 epochs can be read"),
    ],
)
def test_a_run_that_has_ended_and_lost_epochs_is_named(tmp_path, status, lines, found):
    run = records.run_directory(tmp_path, TRIAL, 0)
    records.open_run(run, TRIAL)
    (run / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    records.write_json(run / "result.json", {"status": status, "environment": {}})
    with pytest.raises(InputError, match=rf"metrics\.jsonl is damaged \({found}.*remove .*seed_0 to do"):
        records.read_run(run, TRIAL, 0)


@pytest.mark.parametrize("content", [[], {"status": "foo"}, {"status": "done", "environment": [1]}, {"status": 1}])
def test_a_result_that_is_none_is_named(tmp_path, content):
    run = records.run_directory(tmp_path, TRIAL, 0)
    records.write_json(run / "result.json", content)
    with pytest.raises(InputError, match=r"result\.json is damaged"):
        records.read_run(run, TRIAL, 0)


@pytest.mark.parametrize("content", [[], {}, {"trials": {}, "runs": "2", "rehearsal": [], "overrides": {}}])
def test_a_note_of_a_study_that_is_none_is_named(tmp_path, content):
    records.write_json(tmp_path / "studies" / "s.json", content)
    with pytest.raises(InputError, match=r"s\.json is damaged \(it holds no object with trials, runs"):
        records.read_study(tmp_path, "s")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"together": "foo"}, "unknown together 'foo'"),
        ({"calls": "stepp"}, "unknown calls 'stepp': did you mean 'step'?"),
        ({"checkpoint_every": "5m"}, "checkpoint_every must be seconds, 0 or more; got '5m'"),
        ({"profile": (5, 1)}, r"START < STOP.*got \(5, 1\)"),
        ({"profile": "0:3"}, "START < STOP.*got '0:3'"),
        ({"devices": 1.5}, "devices must be a whole number; got 1.5"),
        ({"devices_per_run": "2"}, "devices_per_run must be a whole number; got '2'"),
        ({"seeds": (1, 1)}, r"seeds must be different whole numbers .*; got \[1, 1\]"),
        ({"seeds": (2**31,)}, "seeds must be different whole numbers from 0 to 2147483647"),
    ],
)
def test_options_that_are_none_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        runner.fit(TRIAL, **{"seeds": (0,), "workdir": tmp_path, **options})
    assert not list(tmp_path.iterdir())


def test_a_run_that_goes_on_by_other_calls_says_that_it_is_rounded_otherwise(tmp_path, monkeypatch, caplog):
    save = loop._Runs.save

    def killed_after_saving(self, *args):
        save(self, *args)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(loop._Runs, "save", killed_after_saving)
        runner.fit(TRIAL, seeds=(0,), workdir=tmp_path, checkpoint_every=0)
    (run,) = runner.fit(TRIAL, seeds=(0,), workdir=tmp_path, calls="step")
    assert run.status == "done" and run.environment["calls"] == "step"
    assert "not bitwise" in caplog.text and "calls" in caplog.text
