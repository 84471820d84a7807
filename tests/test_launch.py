"""Runs as tasks of a real Ray cluster on this machine: lost nodes, a killed driver, a task that cannot be done."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relujax import launch
from relujax.errors import InputError

ROOT = Path(__file__).parents[1]


def test_resources_are_names_and_numbers():
    assert launch.parse(()) == {"CPU": 1}
    assert launch.parse(("GPU=1", "CPU=0.5")) == {"CPU": 0.5, "GPU": 1}
    for text in ("GPU", "=1", "GPU=one", "GPU=-1"):
        with pytest.raises(InputError, match=f"e.g. GPU=1; got '{text}'"):
            launch.parse((text,))


def test_equal_rows_of_several_studies_are_one_task_after_what_they_start_from():
    from dataclasses import replace

    from fault_studies import CONVOLUTIONAL, DENSE

    tuned = replace(DENSE, start_from=CONVOLUTIONAL)
    found = launch._each_once([([tuned], (0, 1)), ([DENSE, CONVOLUTIONAL], (0, 1, 2))])
    assert found == [(CONVOLUTIONAL, [0, 1, 2]), (tuned, [0, 1]), (DENSE, [0, 1, 2])]


@pytest.fixture
def cluster():
    """A cluster of two nodes with one CPU each; the head has none."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    made.shutdown()


def start(cluster, workdir, *studies, every="0s"):
    command = [sys.executable, "tests/fault_studies.py", "run", *studies, "--workdir", str(workdir)]
    command += ["--launcher", "ray", "--address", cluster.address, "--checkpoint-every", every]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.faults
def test_a_node_and_the_driver_are_lost_under_way(cluster, tmp_path):
    """F44: every run is done once, and as in this process."""
    from test_faults import assert_as_if_nothing_had_been, ended, epochs, finish, outcome, runs

    finish("convolutional", tmp_path / "whole")
    workdir = tmp_path / "w"
    process = start(cluster, workdir, "convolutional")
    until(lambda: [run for run in runs(workdir) if epochs(run)], process)
    cluster.remove_node(cluster.nodes[0], allow_graceful=False)  # its processes are killed
    until(lambda: len([run for run in runs(workdir) if epochs(run)]) == 2, process)
    process.kill()
    process.communicate()
    status, errors = ended(start(cluster, workdir, "convolutional"))
    assert status == 0, errors
    assert_as_if_nothing_had_been(workdir, outcome(tmp_path / "whole"))


@pytest.mark.faults
def test_sigterm_to_the_driver_reaches_the_tasks(cluster, tmp_path):
    from test_faults import ended, epochs, newest, runs

    process = start(cluster, tmp_path, "convolutional", every="1h")
    until(lambda: [run for run in runs(tmp_path) if epochs(run)], process)
    process.send_signal(signal.SIGTERM)
    status, errors = ended(process)
    assert status == 3, errors
    begun = [run for run in runs(tmp_path) if epochs(run)]
    assert begun and all(newest(run) for run in begun)  # nothing but the signal saves


@pytest.mark.faults
def test_a_task_that_fails_is_given_up_and_the_others_are_done(cluster, tmp_path):
    """F45: the reason is noted, the exit status is 1."""
    from test_faults import ended, runs

    status, errors = ended(start(cluster, tmp_path, "failing"))
    assert status == 1 and "failed: bad, seed 0: FloatingPointError: out of luck" in errors
    (bad,) = [run for run in runs(tmp_path) if not (run / "result.json").exists()]
    assert json.loads((bad / "failure.json").read_text())["reason"] == "FloatingPointError: out of luck"
    assert len(runs(tmp_path)) == 2
