"""What a checkpoint survives: every file of it truncated, emptied, deleted or flipped in one byte; a failing disk."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from relujax import checkpoint, records
from relujax.checkpoint import Checkpoints, newest
from relujax.errors import InputError
from relujax.preemption import noted_signals

STATE = {"params": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(7, np.int32)}


def saved(directory, *steps):
    checkpoints = Checkpoints(directory)
    for step in steps:
        checkpoints.save(step, {"params": STATE["params"] + step, "step": np.array(step, np.int32)})
    checkpoints.close()


def restored(directory):
    checkpoints = Checkpoints(directory)
    state = checkpoints.restore(newest(directory), STATE)
    checkpoints.close()
    return state


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_the_newest_of_two_kept_checkpoints_comes_back(tmp_path):
    saved(tmp_path, 9, 10, 11)
    assert newest(tmp_path) == 11 and int(restored(tmp_path)["step"]) == 11
    assert {path.stem for path in (tmp_path / "manifests").iterdir()} == {"10", "11"}
    assert newest(tmp_path / "nothing") == 0


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_damage_in_any_file_is_named_and_the_previous_checkpoint_used(tmp_path, damage, caplog):
    saved(tmp_path / "whole", 1, 2)
    for position in range(len(files_of(tmp_path / "whole", 2))):
        directory = tmp_path / str(position)
        saved(directory, 1, 2)
        victim = dict(enumerate(files_of(directory, 2))).get(position)
        if victim is None:
            break  # Orbax writes a file more or less
        if damage is not Path.unlink and not victim.stat().st_size:
            continue  # nothing to cut or flip
        damage(victim)
        caplog.clear()
        assert int(restored(directory)["step"]) == 1
        assert str(victim) in caplog.text
        saved(directory, 2)  # training goes on from there and saves that step again
        assert int(restored(directory)["step"]) == 2


def files_of(directory, step):
    return sorted(path for path in (directory / "checkpoints" / str(step)).rglob("*") if path.is_file())


def test_when_all_are_damaged_nothing_starts_from_zero(tmp_path, caplog):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        flip(max(files_of(tmp_path, step), key=lambda path: path.stat().st_size))
    for _ in range(2):  # neither now nor when it is tried again
        with pytest.raises(InputError, match=r"every checkpoint of .* is damaged"):
            newest(tmp_path)


def test_a_damaged_manifest_costs_one_checkpoint_and_a_missing_one_nothing(tmp_path, caplog):
    saved(tmp_path, 1, 2)
    (tmp_path / "manifests" / "2.json").unlink()  # killed between the rename and the manifest
    assert newest(tmp_path) == 2
    truncate(tmp_path / "manifests" / "1.json")
    (tmp_path / "checkpoints" / "2" / "x").mkdir()
    saved(tmp_path, 3)
    truncate(tmp_path / "manifests" / "3.json")
    assert newest(tmp_path) == 2 and "3.json is damaged" in caplog.text


def test_what_is_no_checkpoint_is_ignored(tmp_path):
    saved(tmp_path, 1)
    for name in ("2.orbax-checkpoint-tmp-123", "notes"):
        (tmp_path / "checkpoints" / name).mkdir()
    (tmp_path / "checkpoints" / "stray.txt").write_text("")
    assert newest(tmp_path) == 1
    (tmp_path / "checkpoints" / "3").mkdir()  # a step without anything in it
    assert newest(tmp_path) == 1


def test_the_step_number_decides_and_not_the_clock(tmp_path):
    saved(tmp_path, 1, 2)
    for path in (tmp_path / "checkpoints" / "1").rglob("*"):
        os.utime(path, (2e9, 2e9))
    assert newest(tmp_path) == 2


@pytest.mark.parametrize("surfaces", ["the next save", "the end"])
def test_an_error_of_the_background_save_surfaces(tmp_path, monkeypatch, surfaces):
    saved(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path)

    def full(directory, step):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_seal", full)
    checkpoints.save(2, STATE)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(3, STATE) if surfaces == "the next save" else checkpoints.close()
    checkpoints.close() if surfaces == "the next save" else None
    monkeypatch.undo()
    assert newest(tmp_path) in (1, 2)


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_free(tmp_path):
    code = f"""
import sys, pathlib
from relujax.records import locked
with locked([pathlib.Path({str(tmp_path)!r})]):
    print("held", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another process is training"), records.locked([tmp_path]):
        pass
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with records.locked([tmp_path]):
        pass


def test_signals_are_noted_and_the_old_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with noted_signals() as asked:
        assert not asked.is_set()
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        assert asked.is_set()
    assert signal.getsignal(signal.SIGINT) is before

    def elsewhere():
        with noted_signals() as asked:
            found.append(asked.is_set())

    found = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]
