"""The live view of a workdir, from files as runs write them."""

import io
import os
import time

import pytest
from rich.console import Console

from experiments import elu
from experiments.__main__ import STUDIES
from relujax import live, records
from relujax.cli import main
from relujax.study import adapt
from relujax.trial import describe

NAME = "elu.fig_2_median_activation"


@pytest.fixture
def workdir(tmp_path):
    """ReLU: one run done, one diverged; LReLU: one at epoch 2 of 8, at 10 s per epoch; ELU: not begun."""
    study = adapt(elu.fig_2_median_activation(), epochs=8, runs=2)
    noted = {"trials": describe(study.trials), "runs": 2, "rehearsal": list(study.rehearsal), "overrides": {}}
    records.note_study(tmp_path, NAME, noted)
    for label, seed, epochs, status in (("ReLU", 0, 8, "done"), ("ReLU", 1, 1, "diverged"), ("LReLU", 0, 2, None)):
        directory = records.run_directory(tmp_path, study.trials[label], seed)
        records.open_run(directory, study.trials[label])
        for epoch in range(epochs):
            metrics = {"epoch": epoch + 1, "step": epoch, "train_loss": 2.0**-epoch, "seconds": 10.0}
            records.append_epoch(directory, metrics, {})
        if status:
            records.write_json(directory / "result.json", {"status": status})
    return tmp_path


def shown(workdir, now, width=120):
    with (console := Console(width=width, color_system=None)).capture() as capture:
        console.print(live.frame(workdir, now=now))
    return capture.get()


def test_every_row_and_run_under_way_is_shown_with_its_epochs_loss_and_time_left(workdir):
    path = next(workdir.glob("runs/*/seed_0/metrics.jsonl"))
    text = shown(workdir, path.stat().st_mtime + 5)
    heading, *lines = [line.split() for line in text.splitlines() if line.strip() and "─" not in line]
    assert " ".join(heading).startswith(f"{NAME} 2 of 6 runs ended, about 5.0 min left; a rehearsal: 8 of 300 epochs")
    rows = {line[0]: line[1:] for line in lines}
    assert rows["ReLU"][:7] == ["2", "of", "2,", "1", "diverged", "9/16", "█▇▆▅▄▃▂▁"] and rows["ReLU"][7] == "0.007812"
    assert rows["LReLU"][:7] == ["0", "of", "2", "2/16", "█▁", "0.5", "2.3"]  # 14 epochs of 10 s
    assert rows["seed"][:4] == ["0", "2/8", "█▁", "0.5"] and rows["seed"][-2:] == ["s", "ago"]
    assert rows["1"] == ["row", "not", "begun", "0", "of", "2", "2.7", "min", "–"]


def test_a_line_that_is_being_written_does_not_count_and_the_next_frame_sees_it_whole(workdir):
    path = next(path for path in workdir.glob("runs/*/seed_0/metrics.jsonl") if len(path.read_text().splitlines()) == 2)
    with path.open("a") as file:
        file.write('{"epoch": 3, "train')
        file.flush()
        assert " 2/8 " in shown(workdir, time.time())
        file.write('_loss": 0.1, "seconds": 10.0}\n')
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert " 3/8 " in shown(workdir, time.time())


def test_a_study_that_has_ended_is_one_line_and_runs_of_no_study_are_named_by_directory(workdir):
    (workdir / "studies" / f"{NAME}.json").unlink()
    text = shown(workdir, time.time())
    assert "other runs  2 of 3 runs ended" in text and text.count("MLP-") == 2
    for path in workdir.glob("runs/*/seed_0"):
        records.write_json(path / "result.json", {"status": "done"})
    assert len(shown(workdir, time.time()).strip().splitlines()) == 1


def test_it_locks_nothing_and_writes_nothing(workdir, capsys):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in workdir.rglob("*")}

    before = state()
    with records.locked([path.parent for path in workdir.glob("runs/*/*/trial.json")]):
        locked = state()
        assert main(STUDIES, ["watch", str(workdir), "--once"]) == 0
        assert state() == locked
    assert NAME in capsys.readouterr().out and set(before) < set(locked)


def test_ctrl_c_ends_the_live_view(workdir, monkeypatch):
    frames = []

    def interrupted(seconds):
        frames.append(seconds)
        if len(frames) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(live.time, "sleep", interrupted)
    monkeypatch.setattr(live, "Console", lambda: Console(force_terminal=True, width=100, file=io.StringIO()))
    assert main(STUDIES, ["watch", str(workdir)]) == 0
    assert len(frames) == 3


@pytest.mark.parametrize(
    "values, expected",
    [([], ""), ([float("nan")], ""), ([5.0], "▁"), ([1.0, 10.0, 100.0], "▁▅█"), ([-1.0, 0.0, 1.0], "▁▅█")],
)
def test_a_sparkline_is_logarithmic_where_it_can_be(values, expected):
    assert live.sparkline(values) == expected


def test_a_long_curve_keeps_its_width():
    assert len(live.sparkline(list(range(1, 1000)), width=16)) == 16
