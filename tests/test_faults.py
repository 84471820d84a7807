"""Processes that are killed, signalled, starved or disturbed, and what their run directories are worth afterwards.

Each test starts the command line on the studies of fault_studies.py and does to its process what happens to real ones.
Aimed instants need no hook in relujax: the process is stopped every millisecond, and its run directory looked at.
"""

import hashlib
import http.server
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from fault_studies import DENSE
from test_own_data import plain_pictures, write_tfds

from relujax import datasets, runner
from relujax.checkpoint import KEPT, newest
from relujax.errors import InputError

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[1]
STEPS = 11  # of an epoch of the convolutional study
KILLS = 20


def start(study, workdir, *flags, every="0s", **how):
    """The process of `run study`, which saves a checkpoint after every step, or every epoch of a dense net."""
    command = [sys.executable, "tests/fault_studies.py", "run", study, "--workdir", str(workdir)]
    how = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | how
    return subprocess.Popen([*command, "--checkpoint-every", every, *flags], **how)


def ended(process):
    """Exit status and what it said on stderr."""
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def finish(study, workdir, *flags):
    """The same command until it is done."""
    status, errors = ended(start(study, workdir, *flags))
    assert status == 0, errors


def kill(process):
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def handles(process):
    """The files that it has open."""
    found = []
    with suppress(OSError):  # closed while we looked, or the process has ended
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            found.append(str(link.readlink()))
    return found


def training(process):
    """Whether it holds the lock of a run directory."""
    return any(path.endswith("/lock") for path in handles(process))


def cpu_seconds(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stop_when(process, workdir, condition):
    """From when it trains, lets the process run a millisecond at a time until `condition` holds of a run directory."""
    while not training(process) and process.poll() is None:
        time.sleep(0.001)
    while process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        if any(map(condition, runs(workdir))):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    pytest.fail(f"it ended before that: {ended(process)}")


def runs(workdir):
    return sorted(workdir.glob("runs/*/seed_*"))


def saved(directory):
    """The steps of a run's sealed checkpoints."""
    return {int(path.stem) for path in directory.glob("manifests/*.json")}


def renamed(directory):
    """The steps of a run's checkpoints that Orbax has completed."""
    return {int(path.name) for path in directory.glob("checkpoints/*") if path.name.isdigit()}


def half_written(directory):
    return list(directory.glob("checkpoints/*tmp*"))


def epochs(directory):
    path = directory / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def outcome(workdir):
    """Run → SHA-256 of every leaf of its final state, metrics without wall-clock fields, probes, how it ended."""
    import orbax.checkpoint as ocp

    found = {}
    for directory in runs(workdir):
        path = directory / "checkpoints" / str(newest(directory)) / "default"
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(path.absolute())
        leaves = jax.tree_util.tree_leaves_with_path(state)
        digests = {jax.tree_util.keystr(key): hashlib.sha256(np.asarray(leaf).data).hexdigest() for key, leaf in leaves}
        lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))  # each once
        for line in lines:
            del line["seconds"]
        probes = {str(file.relative_to(directory)): file.read_bytes() for file in directory.glob("probes/*/*")}
        status = json.loads((directory / "result.json").read_text())["status"]
        found[str(directory.relative_to(workdir))] = (digests, lines, probes, status)
    return found


def assert_as_if_nothing_had_been(workdir, whole):
    assert outcome(workdir) == whole
    left = [path for path in workdir.rglob("*") if "tmp" in path.name or "partial" in path.name]
    assert not left
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if str(workdir).encode() in command]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Study → the outcome of its uninterrupted run."""
    found = {}
    for study in ("dense", "convolutional"):
        workdir = tmp_path_factory.mktemp(study)
        finish(study, workdir, "--checkpoint-every", "1h")
        found[study] = outcome(workdir)
    return found


@pytest.mark.parametrize("study", ["dense", "convolutional"])
def test_killed_at_random_instants(study, tmp_path, whole):
    """F1: after twenty kill -9 the same command ends as if nothing had been."""
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 10**6))
    print(f"FAULT_SEED={seed}")
    instants = random.Random(seed)
    kills = rounds = 0
    while kills < KILLS:
        workdir = tmp_path / str(rounds)
        while kills < KILLS:
            process, begun = start(study, workdir), None
            until = instants.uniform(0, 4)
            while process.poll() is None:
                if begun is None and training(process):
                    begun = cpu_seconds(process)
                if begun is not None and cpu_seconds(process) - begun > until:
                    break
                time.sleep(0.001)
            process.kill()
            status, errors = ended(process)
            if status == 0:
                break
            assert status == -signal.SIGKILL, errors
            kills += 1
        finish(study, workdir)
        assert_as_if_nothing_had_been(workdir, whole[study])
        rounds += 1


def test_killed_at_aimed_instants(tmp_path, whole):
    """F1: compiling, first step, saving, renamed, cleaning up, evaluating, recorded, final write: one after another."""
    begun, last = [], 3 * STEPS

    def compiling(run):
        begun.append(time.monotonic())
        return begun[-1] > begun[0] + 0.5

    aims = {
        "compiling": compiling,
        "the first step is taken": lambda run: half_written(run) or renamed(run),
        "a save under way": lambda run: saved(run) and half_written(run),
        "renamed, not sealed": lambda run: len(saved(run)) == KEPT and renamed(run) - saved(run),
        "cleaning up": lambda run: saved(run) - renamed(run),
        "last step of the epoch, or evaluating": lambda run: max(saved(run), default=0) % STEPS == STEPS - 1,
        "epoch recorded, not saved": lambda run: epochs(run) > max(saved(run), default=0) // STEPS,
        "final write": lambda run: last in saved(run) and not (run / "result.json").exists(),
    }
    for aim, condition in aims.items():
        process = start("convolutional", tmp_path)
        stop_when(process, tmp_path, condition)
        kill(process)
        print(aim, [(sorted(saved(run)), epochs(run)) for run in runs(tmp_path)])
    assert len(list(tmp_path.glob("runs/*/*/result.json"))) < len(runs(tmp_path))
    finish("convolutional", tmp_path)
    assert_as_if_nothing_had_been(tmp_path, whole["convolutional"])


def test_killed_while_restoring_twice(tmp_path, whole):
    """F2."""
    process = start("convolutional", tmp_path)
    stop_when(process, tmp_path, lambda run: len(saved(run)) == KEPT)
    kill(process)
    before = [saved(run) for run in runs(tmp_path)]
    for _ in range(2):
        process = start("convolutional", tmp_path)
        stop_when(process, tmp_path, lambda run, own=process: any(f"{run}/checkpoints" in p for p in handles(own)))
        kill(process)
        assert [saved(run) for run in runs(tmp_path)] == before
    finish("convolutional", tmp_path)
    assert_as_if_nothing_had_been(tmp_path, whole["convolutional"])


PHASES = {
    "compiling": ("convolutional", lambda run: True),
    "training": ("convolutional", lambda run: saved(run)),
    "evaluating": ("convolutional", lambda run: max(saved(run), default=0) == STEPS - 1),
    "saving": ("convolutional", lambda run: saved(run) and half_written(run)),
    "an epoch in one program": ("dense", lambda run: epochs(run)),
}


@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_in_any_phase_is_preemption(phase, tmp_path, whole):
    """F3, F4: exit status 3, what was trained is saved, a second and third signal change nothing."""
    study, condition = PHASES[phase]
    process = start(study, tmp_path)
    stop_when(process, tmp_path, condition)
    before = [(max(saved(run), default=0), epochs(run)) for run in runs(tmp_path)]
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    if phase == "saving":
        time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    status, errors = ended(process)
    assert status == 3 and "the same command again" in errors and "Traceback" not in errors, errors
    for run, (step, lines) in zip(runs(tmp_path), before):
        assert newest(run) >= step and epochs(run) >= lines  # compiling, there may be nothing to save yet
        assert newest(run) in {0, *saved(run)} and not half_written(run)
    finish(study, tmp_path)
    assert_as_if_nothing_had_been(tmp_path, whole[study])


def test_sigterm_while_data_are_fetched(tmp_path):
    """F3, F33: nothing half-fetched is taken for data, whether the process could clean up or not."""

    class Stalling(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"half of it")
            self.wfile.flush()
            asked.set()
            over.wait()

        def log_message(self, *args):
            pass

    asked, over = threading.Event(), threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [sys.executable, "-m", "experiments", "data", "kmnist", "--data-dir", str(tmp_path)]
    command += ["--mirror", f"http://127.0.0.1:{server.server_port}/"]
    try:
        for number, status in ((signal.SIGTERM, 3), (signal.SIGKILL, -signal.SIGKILL)):
            asked.clear()
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert asked.wait(120)
            process.send_signal(number)
            assert ended(process)[0] == status
            assert not list(tmp_path.rglob("train-images-idx3-ubyte.gz"))
            with pytest.raises(InputError, match="is not prepared"):
                datasets.load("kmnist", tmp_path)
    finally:
        over.set()
        server.shutdown()
        server.server_close()


def preempted(study, workdir, condition=saved):
    """A workdir whose runs have been trained for a while."""
    process = start(study, workdir)
    stop_when(process, workdir, condition)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert ended(process)[0] == 3
    return {run: newest(run) for run in runs(workdir)}


def assert_refused_plainly(process, *words):
    """One line says it; Orbax's threads may print more, our code prints no call stack."""
    status, errors = ended(process)
    assert status == 2, errors
    (said,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert any(word in said for word in words) and f"{ROOT}/relujax" not in errors, errors


def test_any_damage_to_the_newest_checkpoint_costs_only_time(tmp_path, caplog):
    """F11: every file of it cut, emptied, removed or flipped in one byte; then all of the run's checkpoints (F12)."""
    trial = replace(DENSE, recipe=DENSE.recipe.lasting(3))
    runner.fit(trial, seeds=(0,), workdir=tmp_path / "whole", checkpoint_every=0)
    whole = outcome(tmp_path / "whole")
    (run,) = runs(tmp_path / "whole")
    (run / "result.json").unlink()
    files = sorted(path.relative_to(run) for path in (run / f"checkpoints/{newest(run)}").rglob("*") if path.is_file())
    damages = {
        "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "emptied": lambda path: path.write_bytes(b""),
        "removed": Path.unlink,
        "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    }
    for number, (file, (how, damage)) in enumerate(itertools.product(files, damages.items())):
        if how != "removed" and not (run / file).stat().st_size:
            continue  # nothing to cut or flip
        workdir = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", workdir)
        (copy,) = runs(workdir)
        damage(copy / file)
        caplog.clear()
        runner.fit(trial, seeds=(0,), workdir=workdir)
        assert str(copy / file) in caplog.text, (file, how)
        assert outcome(workdir) == whole, (file, how)
        shutil.rmtree(workdir)
    for file in run.glob("checkpoints/*/default/d/*"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"every checkpoint of .* is damaged"):
        runner.fit(trial, seeds=(0,), workdir=tmp_path / "whole")
    assert not (run / "result.json").exists()


def test_a_full_disk_ends_the_run_and_harms_nothing(tmp_path, whole):
    """F14, as a limit on the size of a file."""
    before = preempted("convolutional", tmp_path)
    process = start(
        "convolutional", tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000,) * 2)
    )
    assert_refused_plainly(process, "could not be saved in", "File too large")
    assert {run: newest(run) for run in runs(tmp_path)} == before
    assert not list(tmp_path.glob("runs/*/*/result.json"))
    finish("convolutional", tmp_path)
    assert_as_if_nothing_had_been(tmp_path, whole["convolutional"])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("only root may mount a file system")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_or_read_only_file_system(small_disk, whole):
    """F14, on a real file system."""
    workdir = small_disk / "w"
    before = preempted("convolutional", workdir)
    (small_disk / "fill").write_bytes(bytes(shutil.disk_usage(small_disk).free - 100_000))
    assert_refused_plainly(start("convolutional", workdir), "could not be saved", "No space left")
    assert {run: newest(run) for run in before} == before
    (small_disk / "fill").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert_refused_plainly(start("convolutional", workdir), "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    finish("convolutional", workdir)
    assert_as_if_nothing_had_been(workdir, whole["convolutional"])


def test_two_processes_on_one_workdir(tmp_path, whole):
    """F16: the second is refused and the first goes on."""
    first = start("convolutional", tmp_path)
    stop_when(first, tmp_path, saved)
    assert_refused_plainly(start("convolutional", tmp_path), "another process is training")
    first.send_signal(signal.SIGCONT)
    assert ended(first)[0] == 0
    assert_as_if_nothing_had_been(tmp_path, whole["convolutional"])


def test_killed_while_old_checkpoints_are_removed(tmp_path):
    """F17: with one checkpoint kept there is a whole one at every instant after the first."""
    run = tmp_path / "runs" / "trial" / "seed_0"
    code = f"""
import pathlib, numpy as np
from relujax import checkpoint, records
checkpoint.KEPT, run = 1, pathlib.Path({str(run)!r})
with records.locked([run]):
    checkpoints = checkpoint.Checkpoints(run)
    for step in range(1 + checkpoint.newest(run), 10**6):
        checkpoints.save(step, {{"params": np.full(1000, step)}})
"""
    least = 0
    for _ in range(3):
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        aim = least + 5
        stop_when(
            process, tmp_path, lambda run, aim=aim: max(saved(run), default=0) > aim and saved(run) ^ renamed(run)
        )
        least = max(saved(run))
        kill(process)
        assert newest(run) >= least > 5


@pytest.mark.parametrize("variable", ["JAX_ENABLE_X64", "JAX_DEBUG_NANS", "JAX_DISABLE_JIT"])
@pytest.mark.parametrize("study", ["dense", "convolutional"])
def test_jax_settings_of_the_environment(study, variable, tmp_path):
    """F25."""
    flags = ("--epochs", "1", "--runs", "1")
    status, errors = ended(start(study, tmp_path, *flags, env=os.environ | {variable: "1"}))
    assert status == 0, errors
    assert all(epochs(run) == 1 for run in runs(tmp_path))


def test_tensorflow_is_never_imported(tmp_path):
    """F39: where it is there, nothing touches it, so results cannot depend on it."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w'); raise ImportError")
    write_tfds(tmp_path / "data", "leaves", {"train": plain_pictures(250)})
    command = [sys.executable, "-m", "experiments", "run", "elu.fig_2_median_activation", "--data", "leaves@16"]
    command += ["--data-dir", str(tmp_path / "data"), "--epochs", "1", "--runs", "1", "--only", "ELU"]
    command += ["--workdir", str(tmp_path / "w")]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "RELUJAX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "canary").exists()
