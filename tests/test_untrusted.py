"""What somebody else wrote into a workdir is read as data or refused; names do not lead out of it."""

import ast
import os
import pickle
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relujax import records, report, runner
from relujax.checkpoint import newest
from relujax.data import Data, UnitRange
from relujax.errors import InputError
from relujax.models.mlp import MLP
from relujax.probes import UnitMedians
from relujax.recipe import Constant, Epochs, Recipe, Sgd
from relujax.study import Study
from relujax.trial import Trial

ROOT = Path(__file__).parents[1]
TRIAL = Trial(
    model=MLP(1, 8, 10, "relu"),
    data=Data(name="digits", normalize=UnitRange()),
    recipe=Recipe(length=Epochs(2), batch_size=256, optimizer=Sgd(), schedule=Constant(0.05)),
    probes=(UnitMedians(),),
)
STUDY = Study(source="names", question="Whose?", trials={"one": TRIAL}, metrics=("test_error",), runs=1)


def test_nothing_in_the_tree_can_execute_what_it_reads():
    """F35: no pickle, eval, exec, shell, unsafe loader or object array outside the tests."""
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "yaml", "joblib"}
    for path in (
        path for folder in ("relujax", "experiments", "benchmarks", "docs") for path in ROOT.glob(f"{folder}/**/*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.partition(".")[0] for alias in node.names}
                names |= {(getattr(node, "module", None) or "").partition(".")[0]}
                assert not names & modules, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", "")
                assert called not in {"eval", "exec", "compile", "__import__"}, f"{path}:{node.lineno}"
                for keyword in node.keywords:
                    dangerous = keyword.arg in {"allow_pickle", "shell"} and ast.unparse(keyword.value) != "False"
                    assert not dangerous, f"{path}:{node.lineno}"


class Trap:
    def __reduce__(self):
        return os.mkdir, ("canary",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    runner.run(STUDY, workdir=workdir, name="names", checkpoint_every=0)
    return workdir


PLANTED = {
    "checkpoints/*/default/d/*": "every checkpoint of .* is damaged",
    "checkpoints/*/_CHECKPOINT_METADATA": "every checkpoint of .* is damaged",
    "manifests/*.json": "every checkpoint of .* is damaged",
    "probes/unit_medians/*.npy": r"\.npy is damaged",
    "metrics.jsonl": "0 epochs of metrics, but a checkpoint of 2",
    "result.json": r"result\.json is damaged",
    "trial.json": r"trial\.json is damaged",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_pickles_are_refused_and_never_executed(trained, planted, tmp_path, monkeypatch, caplog):
    """F35, F12."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["cp", "-r", trained, tmp_path / "w"], check=True)
    (run,) = (tmp_path / "w").glob("runs/*/seed_0")
    for path in run.glob(planted):
        path.write_bytes(pickle.dumps(Trap()))
        if path.suffix == ".npy":
            np.save(path, np.array([Trap()], object), allow_pickle=True)
    if planted != "result.json":
        (run / "result.json").unlink()
    with pytest.raises(InputError, match=PLANTED[planted]):
        runner.run(STUDY, workdir=tmp_path / "w", name="names")
    assert not Path("canary").exists()


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "", "a\0b", "x" * 300, ".hidden", "a/b", "é" * 150])
def test_names_that_lead_elsewhere_are_refused(name, tmp_path):
    """F36."""
    for call in (
        lambda: runner.run(STUDY, workdir=tmp_path / "w", name=name),
        lambda: report.write({name: STUDY}, tmp_path / "w"),
    ):
        with pytest.raises(InputError, match="a study's name"):
            call()
    assert not list(tmp_path.iterdir())


def test_odd_but_plain_names_and_places_work(trained, tmp_path):
    """F36: spaces, non-ASCII, what URLs and shells would read otherwise, a link to the workdir."""
    place = tmp_path / "a b#c?d%20é '$(x)"
    place.mkdir()
    (tmp_path / "link").symlink_to(place)
    runner.run(replace(STUDY, source="é" * 300), workdir=tmp_path / "link")
    runner.run(STUDY, workdir=tmp_path / "link", name="naïve net - 2")
    (run,), (other,) = place.glob("runs/*/seed_0"), trained.glob("runs/*/seed_0")
    losses = [[epoch["train_loss"] for epoch in records.read_history(directory)] for directory in (run, other)]
    assert newest(run) == 10 and losses[0] == losses[1]
    assert report.write({"naïve net - 2": STUDY}, tmp_path / "link").resolve().parent == place
    assert (place / "report" / "naïve net - 2.md").exists()
