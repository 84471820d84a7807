import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from relujax import records, report, runner, tables
from relujax.claims import Beats, Stated, Verdict
from relujax.errors import InputError
from relujax.measure import measure, read_measurement
from relujax.study import Images, Lines, Measurement, Reported
from relujax.tables import table_cells

CALLS: list[str] = []


def row(name, milliseconds):
    CALLS.append(name)
    x = np.linspace(-1, 1, 5)
    return {"milliseconds": np.array(milliseconds), "x": x, "height": x**2, "maps": np.ones((2, 3, 3)) * x[0]}


MEASUREMENT = Measurement(
    source="Test, Table 1",
    question="Is the slow one slower?",
    rows={"fast": partial(row, "fast", (1.0, 2.0, 3.0, 4.0, 5.0)), "slow": partial(row, "slow", range(6, 11))},
    metrics=("milliseconds",),
    claims=(Stated(words="Fast is faster.", claim=Beats(row="fast", others=("slow",), metric="milliseconds")),),
    panels=(
        Lines(x="x", y="height", horizontal="place", label="height"),
        Images(images="maps", label="two maps"),
    ),
    reported={"fast": Reported(3.5, 0.5)},
)


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def run(workdir, only=()):
    measure(MEASUREMENT, name="test.table_1", workdir=workdir, only=only)
    return read_measurement(MEASUREMENT, "test.table_1", workdir)


def test_a_row_is_measured_once_and_read_again(tmp_path):
    first = run(tmp_path)
    assert CALLS == ["fast", "slow"]
    again = run(tmp_path)
    assert CALLS == ["fast", "slow"]
    for results in (first, again, read_measurement(MEASUREMENT, "test.table_1", tmp_path)):
        assert list(results) == ["fast", "slow"]
        assert [repeat.last("milliseconds") for repeat in results["fast"]] == [1, 2, 3, 4, 5]
        np.testing.assert_array_equal(results["slow"][0].unit_values["height"], [[1, 0.25, 0, 0.25, 1]])
        assert results["slow"][0].environment["jax"]
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path.name.startswith(".")]


def test_a_table_shows_what_was_measured_and_nothing_else(tmp_path):
    rows = {"a": lambda: {"short": [1.0], "long": [1.0, 2.0, 3.0]}}
    uneven = Measurement(source="Test", question="How many?", rows=rows, metrics=("short", "long"))
    measure(uneven, name="test.uneven", workdir=tmp_path)
    header, (cells,) = table_cells(uneven, read_measurement(uneven, "test.uneven", tmp_path))
    assert dict(zip(header, cells)) == {"": "a", "short": "1.000", "long": "2.0 ± 1.0", "n": "3"}
    unnamed = replace(uneven, metrics=())
    header, (cells,) = table_cells(unnamed, read_measurement(unnamed, "test.uneven", tmp_path))
    assert dict(zip(header, cells))["n"] == "1"


def test_rows_are_measured_as_they_are_asked_for(tmp_path):
    assert list(run(tmp_path, only=["slow"])) == ["slow"]
    assert list(run(tmp_path)) == ["fast", "slow"]
    assert CALLS == ["slow", "fast"]


def test_a_wrong_row_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(InputError, match=r"'quick'.*fast, slow"):
        run(tmp_path / "w", only=["fast", "quick"])
    assert CALLS == [] and not (tmp_path / "w").exists()


def test_an_interrupted_row_is_measured_again(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(records, "write_json", interrupted)  # its arrays are on disk, their label is not
        run(tmp_path)
    assert list(tmp_path.rglob("row_1.npz")) and read_measurement(MEASUREMENT, "test.table_1", tmp_path) == {}
    run(tmp_path)
    assert CALLS == ["fast", "fast", "slow"]


def test_a_row_with_another_label_is_measured_again(tmp_path):
    run(tmp_path)
    path = tmp_path / "measurements" / "test.table_1" / "row_1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"label": "faster"}))
    run(tmp_path)
    assert CALLS == ["fast", "slow", "fast"]


def test_a_damaged_row_is_named(tmp_path):
    run(tmp_path)
    path = tmp_path / "measurements" / "test.table_1" / "row_2.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"row_2\.npz is damaged.*remove"):
        run(tmp_path)


def test_it_is_judged_and_reported_like_a_study(tmp_path):
    results = runner.run(MEASUREMENT, name="test.table_1", workdir=tmp_path)
    (judgement,) = tables.judgements(MEASUREMENT, results)
    assert judgement.verdict is Verdict.REPRODUCED
    _, _, fast, slow = tables.table(MEASUREMENT, results, "text").splitlines()
    assert fast.split() == ["fast", "3.0", "±", "1.6", "3.5", "±", "0.5", "-0.5", "5"]
    assert slow.split()[-3:] == ["–", "–", "5"]
    page = report.write({"test.table_1": MEASUREMENT}, tmp_path).read_text()
    assert "n repeats" in page and "<svg" in page and "two maps" in page
    assert "Mean over" not in page  # nothing in its panels is averaged
    assert (tmp_path / "report" / "test.table_1.png").exists()


def test_its_record_is_small_json_with_every_repeat(tmp_path):
    path = report.write_record(MEASUREMENT, "test.table_1", run(tmp_path), tmp_path / "record")
    found = json.loads(path.read_text())
    assert [repeat["curves"]["milliseconds"] for repeat in found["rows"]["slow"]["runs"]] == [[6], [7], [8], [9], [10]]
    assert found["claims"][0]["verdict"] == "reproduced"


def test_a_file_in_place_of_the_workdir_is_refused(tmp_path):
    (tmp_path / "w").write_text("")
    with pytest.raises(InputError, match="is a file"):
        runner.run(MEASUREMENT, workdir=tmp_path / "w")
