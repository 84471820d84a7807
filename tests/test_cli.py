import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import fault_studies
import jax.numpy as jnp
import pytest

from experiments.__main__ import STUDIES
from relujax import adapt, records, runner
from relujax.activations import ACTIVATIONS
from relujax.cli import _seconds, main

RUN = ["run", "elu.fig_2_median_activation", "--data", "digits", "--epochs", "2", "--runs", "2"]


def test_list_names_every_study_in_full(tmp_path, capsys):
    assert main(STUDIES, ["list", "--workdir", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.split()
    assert set(STUDIES) <= set(listed) and len(STUDIES) > 40


def test_show_prints_networks_settings_claims_and_deviations(capsys):
    for name in (
        "elu.fig_2_median_activation",
        "elu.fig_3_autoencoder",
        "elu.table_1_cifar10",
        "tanhexp.fig_1_functions",
    ):
        assert main(STUDIES, ["show", name]) == 0
    shown = capsys.readouterr().out
    assert all(number in shown for number in ("217,354", "2,837,314", "6.55", "-0.3532"))
    assert "0.433" in shown  # MFLOPs: 2 · (784 · 128 + 7 · 128² + 128 · 10) / 10⁶
    assert "ELUs have a smaller median activation" in shown and "Deviation: the number of runs is not stated" in shown


def test_show_names_an_activation_of_ones_own_as_its_author_does(monkeypatch, capsys):
    def leaky(x, slope):
        return jnp.where(x > 0, x, slope * x)

    monkeypatch.setitem(ACTIVATIONS, "leaky", leaky)
    trial = next(iter(STUDIES["elu.fig_2_median_activation"]().trials.values()))
    mine = {
        f"slope {slope}": replace(trial, model=trial.model.clone(activation=partial(leaky, slope=slope)))
        for slope in (0.5, 0.25)
    }
    study = replace(STUDIES["elu.fig_2_median_activation"](), trials=mine, claims=(), panels=(), reported={})
    assert main({"mine": lambda: study}, ["show", "mine"]) == 0
    shown = capsys.readouterr().out
    assert "leaky(0.5)" in shown and "leaky(0.25)" in shown and "code" not in shown


def test_run_then_run_again_then_report(tmp_path, capsys):
    studies = fault_studies.STUDIES
    arguments = ["run", "dense", "--epochs", "2", "--workdir", str(tmp_path), "--tensorboard"]
    assert main(studies, arguments) == 0
    first = capsys.readouterr()
    assert "2 of 30 epochs" in first.out and "2/2" in first.out and str(tmp_path / "report.html") in first.out
    assert "run-epochs" in first.err and "images/s" in first.err
    assert len(list(tmp_path.glob("tensorboard/*/seed_*/*"))) == 4
    assert main(studies, arguments) == 0
    again = capsys.readouterr()
    assert again.out == first.out and "run-epochs" not in again.err
    page = (tmp_path / "report.html").read_text()
    assert main(studies, ["report", "--workdir", str(tmp_path), "--record", str(tmp_path / "record")]) == 0
    assert (tmp_path / "report.html").read_text() == page
    assert (tmp_path / "record" / "dense.json").exists()
    assert main(studies, ["list", "--workdir", str(tmp_path)]) == 0
    assert "4 of 4" in capsys.readouterr().out


def test_what_was_run_from_python_is_reported_with_its_lengths(tmp_path, capsys):
    name = "elu.fig_2_median_activation"
    study = adapt(STUDIES[name](), data="digits", epochs=1, runs=1)
    runner.run(study, workdir=tmp_path, name=name, only=("ELU",))
    assert main(STUDIES, ["list", "--workdir", str(tmp_path)]) == 0 and "1 of 3" in capsys.readouterr().out
    assert main(STUDIES, ["report", name, "--workdir", str(tmp_path)]) == 0
    assert "1 of 300 epochs" in capsys.readouterr().out


def test_an_old_failure_is_reported_with_its_own_row_only(tmp_path, capsys):
    command = ["run", "elu.fig_2_median_activation", "--data", "digits", "--epochs", "1", "--runs", "1"]
    command += ["--workdir", str(tmp_path), "--only", "ELU"]
    assert main(STUDIES, command) == 0
    trials = adapt(STUDIES["elu.fig_2_median_activation"](), data="digits", epochs=1, runs=1).trials
    records.note_failure(records.run_directory(tmp_path, trials["ReLU"], 0), "MemoryError: too small")
    assert main(STUDIES, command) == 0 and "failed" not in capsys.readouterr().err


def test_a_row_that_failed_is_tried_again_by_the_same_command(tmp_path, capsys, monkeypatch):
    command = ["run", "failing", "--workdir", str(tmp_path)]
    assert main(fault_studies.STUDIES, command) == 1
    assert "failed: bad, seed 0: FloatingPointError: out of luck" in capsys.readouterr().err
    trials = fault_studies.failing().trials
    good, bad = (records.run_directory(tmp_path, trials[row], 0) for row in ("good", "bad"))
    assert records.is_finished(good) and not records.is_finished(bad) and (bad / "failure.json").exists()
    monkeypatch.setenv("LUCK", "some")
    assert main(fault_studies.STUDIES, command) == 0 and "failed" not in capsys.readouterr().err
    assert records.is_finished(bad) and not (bad / "failure.json").exists()


@pytest.mark.parametrize("text, seconds", [("30s", 30), ("5m", 300), ("1h", 3600), ("0.5m", 30)])
def test_a_duration_is_read_as_it_is_written(text, seconds):
    assert _seconds(text) == seconds


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["data", "verify", "digit"], "unknown dataset 'digit': did you mean 'digits'?"),
        ([*RUN, "--resources", "GPU=1"], "--address and --resources say where Ray trains"),
        ([*RUN, "--launcher", "ray", "--devices", "1"], "with Ray, --resources says what a task may use"),
        (["run", "elu.fig_2"], "unknown study 'elu.fig_2': did you mean 'elu.fig_2_median_activation'? valid:"),
        (["show", "nothing"], "unknown study 'nothing'"),
        ([*RUN, "--only", "Elu"], "unknown row 'Elu': did you mean 'ELU'? valid: ELU, LReLU, ReLU"),
        ([*RUN[:2], "tanhexp.fig_1_functions", *RUN[2:], "--only", "ELU"], "unknown row 'ELU': did you mean"),
        ([*RUN[:-4], "--data", "mnits"], "unknown dataset 'mnits': did you mean 'mnist'?"),
        (["data", "cifar"], "unknown dataset 'cifar'"),
        (["data", "verify", "mnist", "--data-dir", "/nowhere"], "mnist is not prepared in /nowhere"),
        (["data", "mnist", "kmnist"], "only verify takes a second word; got data mnist kmnist"),
        ([*RUN, "--epochs", "0"], "epochs must be at least 1; got 0"),
        ([*RUN, "--runs", "-2"], "runs must be at least 1; got -2"),
        ([*RUN, "--devices", "0"], "devices must be at least 1; got 0"),
        (["run", "elu.fig_2_median_activation", "--data-dir", "/nowhere"], "mnist is not prepared in /nowhere"),
        (["report"], "holds no run of any study"),
        (["run"], "run needs the name of a study"),
        ([*RUN, "--launcher", "ray", "--resources", "GPU"], "a resource is a name and a number, e.g. GPU=1; got 'GPU'"),
        ([*RUN, "--launcher", "ray", "--distributed"], "Ray hands the runs out itself"),
        ([*RUN, "--checkpoint-every", "²m"], "got '²m'"),
        ([*RUN, "--profile", "1:²"], "got '1:²'"),
        ([*RUN, "--workdir", ""], "--workdir must name a directory, . for this one; got ''"),
        ([*RUN, "--epochs", "9" * 20], "epochs must be at most 119,304,647, of 18 steps each; got 99,999,999,999"),
        ([*RUN, "--runs", "99999999"], "runs must be at most 10,000 a row; got 99,999,999"),
        (
            ["data", "verify", "list"],
            "unknown dataset 'list': did you mean 'mnist'? valid: all, cifar10, cifar100",
        ),
        ([*RUN[:-4], "--data", "digits@64", "--data-dir", "/nowhere"], "digits is not prepared in /nowhere, to resize"),
        (["watch", "nowhere"], "must be a directory that a study runs in; nowhere is none"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(STUDIES, arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_is_a_file_is_refused(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("mine")
    assert main(STUDIES, [*RUN, "--workdir", str(path)]) == 2
    assert "must be a directory" in capsys.readouterr().err and path.read_text() == "mine"


def test_a_word_that_is_no_number_is_refused_by_the_flag_parser(capsys):
    with pytest.raises(SystemExit) as stop:
        main(STUDIES, [*RUN, "--epochs", "many"])
    assert stop.value.code == 2


def test_an_interrupted_run_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("relujax.runner.train", interrupted)
    assert main(STUDIES, [*RUN, "--workdir", str(tmp_path)]) == 3
    assert "the same command again" in capsys.readouterr().err


def test_every_command_explains_itself():
    for command in ("list", "show", "run", "watch", "report", "data"):
        with pytest.raises(SystemExit) as stop:
            main(STUDIES, [command, "--help"])
        assert stop.value.code == 0


def test_what_was_compiled_outlives_the_process(tmp_path):
    code = "from relujax.environment import keep_compiled_programs; keep_compiled_programs(); import jax; "
    command = [sys.executable, "-c", code + "jax.jit(lambda x: 2 * x)(1.0)"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    del environment["JAX_COMPILATION_CACHE_DIR"]  # where the tests keep theirs
    subprocess.run(command, check=True, env=environment, capture_output=True)
    assert list((tmp_path / "relujax" / "compiled").glob("*-cache"))


def test_run_keeps_what_it_compiles(monkeypatch, capsys):
    kept = []
    monkeypatch.setattr("relujax.environment.keep_compiled_programs", lambda: kept.append(True))
    assert main(STUDIES, ["run", "nothing"]) == 2 and kept == [True]


def test_a_measurement_has_no_time_to_foretell(capsys):
    assert main(STUDIES, ["show", "tanhexp.fig_1_functions", "--time"]) == 0
    assert "--time: it is measured in seconds" in capsys.readouterr().out
