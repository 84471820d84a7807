"""Records: what is committed of runs is enough to go on from, and to come to the same verdicts again."""

import json
from dataclasses import replace
from pathlib import Path

import fault_studies
import pytest

from experiments.__main__ import STUDIES
from relujax import adapt, records, report, results
from relujax.cli import main
from relujax.probes import MedianActivation
from relujax.study import Study

RESULTS = Path(__file__).parents[1] / "results"
NAME = "convolutional"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A workdir with a run done and one diverged, and its record."""
    workdir = tmp_path_factory.mktemp("workdir")
    study = fault_studies.convolutional()
    for seed, ended in enumerate(({"status": "done"}, {"status": "diverged", "diverged_at_step": 27})):
        run = records.run_directory(workdir, study.trials["plain"], seed)
        records.open_run(run, study.trials["plain"])
        for epoch in range(3 - seed):
            records.append_epoch(run, {"epoch": epoch + 1, "step": 11 * (epoch + 1), "test_error": 0.1 + seed}, {})
        records.write_json(run / "result.json", {**ended, "environment": {"device": "abacus", "code": "x"}})
    results = report.read(study, NAME, workdir)
    report.write_record(study, NAME, results, workdir / "kept")
    return workdir


def test_ended_runs_of_a_record_are_not_trained_again(recorded, tmp_path, capsys):
    command = ["run", NAME, "--workdir", str(tmp_path / "new"), "--records", str(recorded / "kept")]
    assert main(fault_studies.STUDIES, command) == 0
    said = capsys.readouterr()
    assert f"2 runs taken over from {recorded / 'kept'}" in said.err and "run-epochs" not in said.err
    study = fault_studies.convolutional()
    ours, theirs = (report.read(study, NAME, workdir)["plain"] for workdir in (tmp_path / "new", recorded))
    assert [run.status for run in ours] == ["done", "diverged"] and ours[1].diverged_at_step == 27
    for own, before in zip(ours, theirs, strict=True):
        assert own.curve("test_error").tolist() == before.curve("test_error").tolist()
        assert own.environment == before.environment
    again = report.write_record(study, NAME, report.read(study, NAME, tmp_path / "new"), tmp_path / "again")
    assert again.read_text() == (recorded / "kept" / f"{NAME}.json").read_text()
    assert main(fault_studies.STUDIES, command) == 0 and "0 runs taken over" in capsys.readouterr().err


def test_what_a_workdir_has_begun_and_what_has_not_ended_is_left_alone(recorded, tmp_path):
    study = fault_studies.convolutional()
    own = records.run_directory(tmp_path, study.trials["plain"], 0)
    records.open_run(own, study.trials["plain"])
    assert results.take_over(study, recorded / "kept", tmp_path) == 1 and not records.is_finished(own)
    kept = json.loads((recorded / "kept" / f"{NAME}.json").read_text())
    kept["rows"]["plain"]["runs"][1]["status"] = "unfinished"
    records.write_json(tmp_path / "other" / "record.json", kept)
    assert results.take_over(study, tmp_path / "other", tmp_path / "workdir") == 1


def test_another_trial_and_what_a_record_cannot_hold_are_trained(recorded, tmp_path):
    study = fault_studies.convolutional()
    trial = study.trials["plain"]
    longer = replace(study, trials={"plain": replace(trial, recipe=trial.recipe.lasting(4))})
    probed = replace(study, trials={"plain": replace(trial, probes=fault_studies.DENSE.probes)})
    for other in (longer, probed, fault_studies.dense()):
        assert results.take_over(other, recorded / "kept", tmp_path) == 0
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_none_is_one_line(tmp_path, capsys):
    assert main(fault_studies.STUDIES, ["run", NAME, "--workdir", str(tmp_path), "--records", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "folder of records, such as results; nowhere is none" in said


def committed():
    for path in sorted(RESULTS.glob("*.json")) + sorted((RESULTS / "rehearsals").glob("*.json")):
        study = STUDIES[path.stem]()
        probes = [probe for trial in getattr(study, "trials", {}).values() for probe in trial.probes]
        if isinstance(study, Study) and all(isinstance(probe, MedianActivation) for probe in probes):
            yield path, study


@pytest.mark.parametrize("path, study", committed(), ids=lambda value: getattr(value, "stem", ""))
def test_what_is_committed_gives_the_same_verdicts_again(path, study, tmp_path):
    found = json.loads(path.read_text())
    counts = [len(row["runs"]) for row in found["rows"].values()]
    study = adapt(study, runs=max(counts))
    if results.take_over(study, path.parent, tmp_path) < sum(counts):
        pytest.skip("an adapted study, whose runs have other lengths")
    now = results.record(study, path.stem, report.read(study, path.stem, tmp_path))
    assert (now["table"], now["rehearsal"]) == (found["table"], found["rehearsal"])
    for ours, theirs in zip(now["claims"], found["claims"], strict=True):
        assert (ours["verdict"], ours["as_claimed"]) == (theirs["verdict"], theirs["as_claimed"])
        # Curves are kept to five digits.
        assert ours["p"] == (theirs["p"] and pytest.approx(theirs["p"], rel=1e-4))


def test_every_row_is_taken_over_but_runs_that_were_not_measured_in_every_epoch(tmp_path):
    """A record leaves out where a metric has no value, so that nobody knows any more of which epoch a number is."""
    plain = fault_studies.convolutional().trials["plain"]
    once, other = (replace(plain, recipe=replace(plain.recipe, batch_size=size)) for size in (64, 32))
    study = replace(fault_studies.convolutional(), trials={"once": once, "plain": plain, "other": other})
    for trial in study.trials.values():
        run = records.run_directory(tmp_path, trial, 0)
        records.open_run(run, trial)
        for epoch in (1, 2, 3):
            held_out = trial == once and epoch < 3
            records.append_epoch(
                run, {"epoch": epoch, "train_loss": 1.0} | ({} if held_out else {"test_error": 0.1}), {}
            )
        records.write_json(run / "result.json", {"status": "done", "environment": {}})
    report.write_record(study, NAME, report.read(study, NAME, tmp_path), tmp_path / "kept")
    assert results.take_over(study, tmp_path / "kept", tmp_path / "new") == 2
    begun = {label: records.run_directory(tmp_path / "new", trial, 0).exists() for label, trial in study.trials.items()}
    assert begun == {"once": False, "plain": True, "other": True}


@pytest.mark.parametrize(
    "damage",
    [{"rows": []}, {"rows": {"plain": {"runs": [{"status": "done"}]}}}, {"rows": {"plain": {}}}, {"rows": None}],
)
def test_a_damaged_record_is_named_in_one_line(tmp_path, capsys, damage):
    records.write_json(tmp_path / "kept" / "a.json", {"study": NAME, **damage})
    command = ["run", NAME, "--workdir", str(tmp_path / "new"), "--records", str(tmp_path / "kept")]
    assert main(fault_studies.STUDIES, command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{tmp_path / 'kept' / 'a.json'} is no whole record of a study" in said
    assert not (tmp_path / "new" / "runs").exists()
