"""Run directories: the only truth that outlives a process, and the only thing that a report reads.

WORKDIR/studies/<study>.json                     which rows, runs and overrides were asked for
WORKDIR/runs/<trial id>/seed_3/trial.json        the trial as data
                              metrics.jsonl      one line per epoch
                              probes/<name>/00001.npy
                              environment.json   on what it trains, the digest of its data included
                              checkpoints/       see checkpoint.py
                              result.json        present once the run has ended, done or diverged
                              failure.json       why it could not, where an error stopped it
WORKDIR/measurements/<name>/row_1.{npz,json}     a measured row: its arrays; its label and circumstances
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from relujax.errors import InputError
from relujax.trial import RunResult, Trial, describe, differences, trial_id


def check_name(name: str) -> None:
    """Refuses a name of a study that is no plain file name, so that nothing is written elsewhere."""
    if not re.fullmatch(r"\w[\w. -]*", name) or len(name.encode()) > 200:
        rule = "begins with a letter or digit and has only such, '.', '-', '_' and spaces, at most 200 bytes"
        raise InputError(f"a study's name {rule}; got {name!r}")


def run_directory(workdir: Path, trial: Trial, seed: int) -> Path:
    """Where the run of `trial` with `seed` lives."""
    return workdir / "runs" / trial_id(trial) / f"seed_{seed}"


class Held(InputError):
    """Another process trains the run."""


@contextmanager
def locked(directories: Iterable[Path]) -> Iterator[None]:
    """Holds the lock of each run directory; refuses one that another process holds.

    The system lets go of it when a process ends, however it ends: there are no stale locks. Where it knows no such
    locks, nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with ExitStack() as stack:
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((directory / "lock").open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Held(f"another process is training {directory}; wait for it or use another workdir") from None
            except OSError:  # a file system without locks
                continue
            for left in directory.glob("*.partial"):  # by a process that was killed
                left.unlink()
        yield


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Writes JSON so that a reader sees the whole file or none of it."""
    write_whole(path, (json.dumps(value, indent=indent) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees all of it or none, and two processes do not get into each other's way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file; a damaged one is named."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it to do that run again") from None


def read_object(path: Path, **kinds: type) -> dict[str, Any]:
    """The content of a JSON file that holds an object with fields of these kinds at least."""
    found = read_json(path)
    if not isinstance(found, dict) or any(not isinstance(found.get(name), kind) for name, kind in kinds.items()):
        needed = f" with {', '.join(kinds)}" if kinds else ""
        raise InputError(f"{path} is damaged (it holds no object{needed}); remove it to do that run again")
    return found


def open_run(directory: Path, trial: Trial) -> None:
    """Makes the run directory, or refuses one that holds another trial under the same name."""
    path = directory / "trial.json"
    if path.exists():
        if differing := differences(describe(trial), read_object(path)):
            raise InputError(f"{directory} holds another trial: {'; '.join(differing)}; use another workdir")
        return
    write_json(path, describe(trial))


def read_history(directory: Path) -> list[dict[str, float]]:
    """The epochs in metrics.jsonl; a last line that was cut in half does not count."""
    return _epochs(_lines(directory))


def _lines(directory: Path) -> list[str]:
    path = directory / "metrics.jsonl"
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def _epochs(lines: Sequence[str]) -> list[dict[str, float]]:
    """The epochs up to the first line that is none."""
    history = []
    for line in lines:
        try:
            history.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            break
    return history


def keep_epochs(directory: Path, epochs: int) -> None:
    """Cuts metrics.jsonl back to its first `epochs` epochs, where training goes on."""
    lines = [json.dumps(epoch) + "\n" for epoch in read_history(directory)[:epochs]]
    if len(lines) < epochs:
        raise InputError(f"{directory} has {len(lines)} epochs of metrics, but a checkpoint of {epochs}; remove it")
    write_whole(directory / "metrics.jsonl", "".join(lines).encode())


def append_epoch(directory: Path, metrics: Mapping[str, float], unit_values: Mapping[str, np.ndarray]) -> None:
    """Adds one epoch: scalars as a line of metrics.jsonl, arrays as files under probes/."""
    epoch = int(metrics["epoch"])
    for name, values in unit_values.items():
        path = directory / "probes" / name / f"{epoch:05d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values, allow_pickle=False)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics) + "\n")


def is_finished(directory: Path) -> bool:
    """Whether the run has ended, done or diverged."""
    return (directory / "result.json").exists()


def note_failure(directory: Path, reason: str) -> None:
    """Writes down why the run could not be trained to its end; "" takes the note away."""
    if reason and not is_finished(directory):
        write_json(directory / "failure.json", {"reason": reason})
    else:
        (directory / "failure.json").unlink(missing_ok=True)


def read_run(directory: Path, trial: Trial, seed: int) -> RunResult | None:
    """One run from its directory; None where it was never begun."""
    if not directory.exists():
        return None
    ended: dict[str, Any] = {"status": "unfinished", "environment": {}}
    if is_finished(directory):
        ended = read_ended(directory)
    elif (directory / "failure.json").exists():
        ended["failure"] = read_object(directory / "failure.json", reason=str)["reason"]
    lines = _lines(directory)
    history = _epochs(lines)
    if ended["status"] != "unfinished":
        # A run that diverged may have ended in any epoch.
        length = trial.recipe.length.count if ended["status"] == "done" else len(lines)
        _check_whole(directory, history, len(lines), length)
    unit_values = {}
    if (directory / "probes").exists():
        for folder in sorted((directory / "probes").iterdir()):
            if files := sorted(folder.glob("*.npy"))[: len(history)]:  # a kill may have left one without its epoch
                unit_values[folder.name] = np.stack([_read_array(file) for file in files])
    return RunResult(
        trial_id=trial_id(trial),
        seed=seed,
        status=ended["status"],
        diverged_at_step=ended.get("diverged_at_step"),
        failure=ended.get("failure", ""),
        history=tuple(history),
        unit_values=unit_values,
        environment=ended["environment"],
    )


def _check_whole(directory: Path, history: Sequence[Mapping[str, float]], lines: int, length: int) -> None:
    """Refuses a run that has ended and of whose `length` epochs, a line each, some are missing or damaged."""
    if lines != length or [epoch.get("epoch") for epoch in history] != list(range(1, length + 1)):
        raise InputError(
            f"{directory / 'metrics.jsonl'} is damaged ({len(history)} of {length} epochs can be read, "
            f"in {lines} lines); remove {directory} to do that run again"
        )


def read_ended(directory: Path) -> dict[str, Any]:
    """How a run has ended, and where it was trained."""
    path = directory / "result.json"
    ended = {"environment": {}, **read_object(path, status=str)}
    if ended["status"] not in ("done", "diverged") or not isinstance(ended["environment"], dict):
        raise InputError(f"{path} is damaged (status {ended['status']!r}); remove it to do that run again")
    return ended


def read_results(workdir: Path, trials: Mapping[str, Trial], runs: int) -> dict[str, Sequence[RunResult]]:
    """The runs of every row that were begun, by seed."""
    return {
        label: [
            run
            for seed in range(runs)
            if (run := read_run(run_directory(workdir, trial, seed), trial, seed)) is not None
        ]
        for label, trial in trials.items()
    }


def write_measured_row(
    workdir: Path,
    name: str,
    position: int,
    label: str,
    arrays: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> None:
    """Writes the arrays of a row of a measurement; the JSON file comes last and says that the row is whole."""
    path = workdir / "measurements" / name / f"row_{position + 1}.npz"
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_whole(path, content.getvalue())
    write_json(path.with_suffix(".json"), {"label": label, "environment": dict(environment)})


def read_measured_rows(
    workdir: Path, name: str, labels: Sequence[str]
) -> dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """Label → (arrays, circumstances) of every row that was measured under this label."""
    rows = {}
    for position, label in enumerate(labels):
        path = workdir / "measurements" / name / f"row_{position + 1}.json"
        if path.exists() and (noted := read_object(path, label=str, environment=dict))["label"] == label:
            rows[label] = _read_arrays(path.with_suffix(".npz")), noted["environment"]
    return rows


def _read_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}); remove {path.parents[2]} to do that run again") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it and its .json to measure that row again") from None


def check_study(workdir: Path, name: str, trials: Any) -> None:
    """Refuses a workdir that holds one of the study's rows as something else; a new row is no reason to."""
    noted = (read_study(workdir, name) or {"trials": {}})["trials"]
    if differing := differences({row: trials[row] for row in noted if row in trials}, noted):
        shown = "; ".join(differing[:6]) + (f"; and {len(differing) - 6} more" if len(differing) > 6 else "")
        raise InputError(f"{workdir} holds {name} with {shown}; use another workdir")


def note_study(workdir: Path, name: str, study: Mapping[str, Any]) -> None:
    """Notes what a study was run as."""
    write_json(workdir / "studies" / f"{name}.json", dict(study))


def read_study(workdir: Path, name: str) -> dict[str, Any] | None:
    """What the study was run as in this workdir, or None."""
    path = workdir / "studies" / f"{name}.json"
    kinds = {"trials": dict, "runs": int, "rehearsal": list, "overrides": dict}
    return read_object(path, **kinds) if path.exists() else None
