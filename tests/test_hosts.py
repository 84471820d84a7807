"""Two processes with four devices each, against one with eight: the same study, ended in every way a process ends.

Process 1 has a workdir of its own, which must never come to be: process 0 alone writes.
"""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from test_mesh import ROOT, curves, trial_of

from relujax import hosts, loop, records
from relujax.checkpoint import Checkpoints, newest
from relujax.cli import main
from relujax.errors import InputError
from relujax.recipe import make_optimizer
from relujax.study import Study
from relujax.train import init_state

STEPS = 35  # an epoch
PATIENCE = 60
# Three runs with four devices each: two at once, one per process, then one that two devices of each process share.
RUN = ["run", "tiny", "--devices-per-run", "4", "--patience", f"{PATIENCE}s", "--checkpoint-every", "1h"]


def tiny() -> Study:
    """Both ways in which steps reach the devices."""
    trials = {"dense": trial_of("dense", 3), "convolutional": trial_of("convolutional", 1)}
    return Study(source="Test", question="Is it the same?", trials=trials, metrics=("test_error",), runs=3)


def launch(workdir, *arguments, act="nothing", at=0):
    """This file as a program, see its end: `act` happens where the process has to agree with others the at-th time."""
    command = [sys.executable, __file__, act, str(at), *RUN, "--workdir", str(workdir), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(workdir.parent.parent / "cache")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def together(workdir, **of_process_1):
    """Both processes to their ends: exit statuses, what they said, and the seconds by which process 0 ended later."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = ["--devices", "4", "--coordinator", f"localhost:{port}", "--processes", "2", "--process"]
    other = launch(workdir.with_name("of_process_1"), *arguments, "1", **of_process_1)
    first = launch(workdir, *arguments, "0")
    said_1, ended = other.communicate(timeout=900), time.monotonic()
    said_0 = first.communicate(timeout=900)
    assert not workdir.with_name("of_process_1").exists()
    return (first.returncode, other.returncode), "".join(said_0), "".join(said_1), time.monotonic() - ended


def outcome(workdir):
    """The curves of every run without wall-clock fields, and its final state."""
    found = []
    for trial in tiny().trials.values():
        images = jax.ShapeDtypeStruct((1, 8, 8, 1), "uint8")
        optimizer = make_optimizer(trial.recipe, STEPS)
        like = jax.eval_shape(lambda images: init_state(trial, optimizer, np.int32(0), images), images)  # noqa: B023
        for seed in range(3):
            directory = records.run_directory(workdir, trial, seed)
            checkpoints = Checkpoints(directory)
            state = checkpoints.restore(newest(directory), like)
            checkpoints.close()
            found.append((curves([records.read_run(directory, trial, seed)]), state))
    return found


def same(ours, theirs, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two") / "workdir"
    status, said, _, _ = together(workdir)
    assert status == (0, 0), said
    assert "report: " in said
    return outcome(workdir)


@pytest.mark.faults
def test_two_processes_give_what_one_with_all_devices_gives(uninterrupted, tmp_path):
    one = launch(tmp_path / "workdir", "--devices", "8")
    _, errors = one.communicate(timeout=900)
    assert one.returncode == 0, errors
    same(uninterrupted, outcome(tmp_path / "workdir"), rtol=1e-4, atol=1e-5)
    for history, state in uninterrupted:
        assert [epoch["step"] for epoch in history] == list(range(STEPS, int(state.step) + 1, STEPS))


@pytest.mark.faults
def test_when_one_is_killed_the_other_ends_and_both_go_on_to_the_same_end(uninterrupted, tmp_path):
    status, said, _, seconds = together(tmp_path / "workdir", act="kill", at=3)
    assert status[0] not in (0, 3) and status[1] == -signal.SIGKILL
    assert seconds < PATIENCE + 10
    status, said, _, _ = together(tmp_path / "workdir")
    assert status == (0, 0), said
    same(outcome(tmp_path / "workdir"), uninterrupted, rtol=0)


@pytest.mark.faults
@pytest.mark.parametrize(
    "at, saved",
    [
        (1, [0, 2 * STEPS, 2 * STEPS]),  # it is too late for the answer under way, so the next one says it
        # After four answers for each group of dense runs, within an epoch, where they are read a step later.
        (2 * 4 + 10, [0, 12, 12, 3 * STEPS, 3 * STEPS, 3 * STEPS]),
    ],
    ids=["epochs", "steps"],
)
def test_when_one_is_asked_to_end_both_save_the_same_step(uninterrupted, tmp_path, at, saved):
    status, said, _, _ = together(tmp_path / "workdir", act="ask", at=at)
    assert status == (3, 3), said
    assert sorted(newest(path) for path in (tmp_path / "workdir" / "runs").glob("*/*")) == saved
    assert "Traceback" not in said
    status, said, _, _ = together(tmp_path / "workdir")
    assert status == (0, 0), said
    same(outcome(tmp_path / "workdir"), uninterrupted, rtol=0)


@pytest.mark.faults
@pytest.mark.parametrize("act", ["fail", "be slow"])
def test_an_error_of_one_ends_both_and_a_slow_one_is_waited_for(tmp_path, act):
    status, said_0, said_1, seconds = together(tmp_path / "workdir", act=act, at=2)
    if act == "be slow":
        assert status == (0, 0), said_0
    else:
        assert 0 not in status and seconds < PATIENCE + 10
        assert said_1.count("error in process 1: what went wrong") == 1 and "what went wrong" not in said_0


def test_a_coordinator_that_never_comes_is_an_error_after_the_patience(tmp_path):
    arguments = ["--coordinator", "localhost:1", "--processes", "2", "--process", "1", "--patience", "1s"]
    process = launch(tmp_path / "workdir", *arguments)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "no coordinator answers at localhost:1 within 1 s" in errors and "Traceback" not in errors
    assert not (tmp_path / "workdir").exists()


@pytest.mark.parametrize(
    "given, message",
    [
        (("localhost:1", 2, None), "go together"),
        (("localhost", 2, 0), "HOST:PORT of process 0, e.g. 10.0.0.1:8476; got 'localhost'"),
        (("localhost:1", 2, 2), "--process must be from 0 to 1"),
        (("localhost:1", 0, 0), "--processes must be at least 1; got 0"),
    ],
)
def test_a_start_that_cannot_be_is_refused(given, message):
    with pytest.raises(InputError, match=message), hosts.joined(*given, timeout=1):
        pass


def test_interrupted_before_training_is_preempted_as_well():
    code = "from relujax import hosts\nwith hosts.joined('localhost:{}', 1, 0, 5): raise KeyboardInterrupt"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        command = [sys.executable, "-c", code.format(free.getsockname()[1])]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3 and "the same command again" in ended.stderr and "Traceback" not in ended.stderr


def fail():
    raise RuntimeError("what went wrong")


ACTS = {
    "nothing": lambda: None,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "ask": lambda: signal.raise_signal(signal.SIGTERM),
    "fail": fail,
    "be slow": lambda: time.sleep(3),
}

if __name__ == "__main__":
    act, at, *arguments = sys.argv[1:]
    largest, calls = hosts.largest, []

    def asked(number: int):
        calls.append(number)
        if len(calls) == int(at):
            ACTS[act]()
        return largest(number)

    loop.hosts.largest = asked
    sys.exit(main({"tiny": tiny}, arguments))
