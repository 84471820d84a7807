"""A running workdir on the terminal: what every row and run has done, how its loss falls, how long it will take.

Only reads run directories: it locks nothing, writes nothing, and may run on another machine that sees the same files.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from relujax import records
from relujax.errors import InputError
from relujax.progress import duration

BLOCKS = "▁▂▃▄▅▆▇█"
SECONDS_BETWEEN_FRAMES = 2.0
SILENT_SECONDS = 600.0  # since the last file: longer than a checkpoint and most epochs take


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its directories show it, earlier phases included."""

    seed: int
    length: int  # epochs in all
    losses: Sequence[float] = ()  # train loss after each epoch
    seconds: Sequence[float] = ()  # this run's share of the time of each epoch
    status: str = "not begun"  # "unfinished", "done", "diverged"
    updated: float = 0.0  # seconds since 1970

    @property
    def ended(self) -> bool:
        return self.status in ("done", "diverged")

    @property
    def epochs(self) -> int:
        return len(self.losses)


def watch(workdir: Path, *, once: bool = False, shown: str = "") -> None:
    """Shows `workdir`, by the name `shown`, until Ctrl-C, or once where there is no terminal."""
    if not workdir.is_dir():
        raise InputError(f"the workdir must be a directory that a study runs in; {workdir} is none")
    console = Console()
    if once or not console.is_terminal:
        console.print(frame(workdir, now=time.time(), shown=shown))
        return
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(frame(workdir, now=time.time(), shown=shown), refresh=True)
                time.sleep(SECONDS_BETWEEN_FRAMES)
    except KeyboardInterrupt:
        pass


def frame(workdir: Path, *, now: float, shown: str = "") -> Group:
    """Every study of `workdir` at the time `now`, the last heard of first; one that has ended in one line."""
    studies = dict(_studies(workdir))
    latest = {name: max(run.updated for runs in rows.values() for run in runs) for name, (_, rows) in studies.items()}
    parts: list[Text | Table] = []
    for name in sorted(studies, key=lambda name: -latest[name]):
        rehearsal, rows = studies[name]
        runs = [run for own in rows.values() for run in own]
        ended = sum(run.ended for run in runs)
        left = sum(seconds_left(rows, label) for label in rows)
        heading = Text(name, style="bold").append(f"  {ended} of {len(runs)} runs ended", style="not bold")
        if ended < len(runs):
            heading.append("" if np.isnan(left) else f", about {duration(left)} left", style="not bold")
        if rehearsal:
            heading.append(f"; a rehearsal: {'; '.join(rehearsal)}", style="yellow not bold")
        parts.append(heading)
        parts.append(Text("") if ended == len(runs) else _table(rows, now))
    return Group(*parts or [Text(f"{shown or workdir} holds no run yet")])


def seconds_left(rows: Mapping[str, Sequence[Run]], label: str) -> float:
    """Remaining run-epochs of a row times what one takes, in the row, else in the study; nan where none is done yet."""
    remaining = sum(run.length - run.epochs for run in rows[label] if not run.ended)
    for runs in (rows[label], [run for own in rows.values() for run in own]):
        if seconds := [value for run in runs for value in run.seconds]:
            return remaining * float(np.median(seconds))
    return float("nan") if remaining else 0.0


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """A curve in `width` characters, on a logarithmic scale where all values are positive."""
    finite = np.array([value for value in values if np.isfinite(value)])
    if not finite.size:
        return ""
    if (finite > 0).all():
        finite = np.log(finite)
    means = [part.mean() for part in np.array_split(finite, min(width, finite.size))]
    low, high = min(means), max(means)
    heights = np.zeros(len(means)) if high == low else (np.array(means) - low) / (high - low)
    return "".join(BLOCKS[round(height * (len(BLOCKS) - 1))] for height in heights)


def _table(rows: Mapping[str, Sequence[Run]], now: float) -> Table:
    """A line for each row, and below it one for each of its runs that is under way."""
    right = {"justify": "right", "no_wrap": True}
    columns = [Column("row", overflow="fold"), Column("runs", **right), Column("epochs", **right)]
    columns += [Column("train loss", no_wrap=True), Column("", **right), Column("left", **right)]
    table = Table(*columns, Column("updated", **right), box=SIMPLE, padding=(0, 1, 0, 0))
    waiting_rows = [label for label, runs in rows.items() if all(run.status == "not begun" for run in runs)]
    for label, runs in rows.items():
        if label in waiting_rows:
            continue
        diverged = sum(run.status == "diverged" for run in runs)
        ended = f"{sum(run.ended for run in runs)} of {len(runs)}" + (f", {diverged} diverged" if diverged else "")
        left = seconds_left(rows, label)
        epochs = f"{sum(run.epochs for run in runs)}/{sum(run.length for run in runs)}"
        table.add_row(
            Text(label), ended, epochs, *_loss(max(runs, key=lambda run: run.epochs)), _left(left), _ago(runs, now)
        )
        for run in runs:
            if run.ended or not run.epochs:  # the directories of runs that wait their turn are there, too
                continue
            name, epochs = Text(f"  seed {run.seed}", style="dim"), f"{run.epochs}/{run.length}"
            table.add_row(name, "", epochs, *_loss(run), "", _ago([run], now), style="dim")
    if waiting_rows:
        count = sum(len(rows[label]) for label in waiting_rows)
        left = sum(seconds_left(rows, label) for label in waiting_rows)
        name = f"{len(waiting_rows)} {'row' if len(waiting_rows) == 1 else 'rows'} not begun"
        table.add_row(name, f"0 of {count}", "", "", "", _left(left), "–", style="dim")
    return table


def _loss(run: Run) -> tuple[str, str]:
    return sparkline(run.losses), f"{run.losses[-1]:.4g}" if run.losses else ""


def _ago(runs: Sequence[Run], now: float) -> Text:
    """How long ago the runs were last heard of; marked where one should be under way and is silent."""
    updated = max(run.updated for run in runs)
    if not updated:
        return Text("–")
    slowest = max((seconds for run in runs for seconds in run.seconds), default=0.0) * len(runs)
    silent = any(run.status == "unfinished" for run in runs) and now - updated > max(SILENT_SECONDS, 3 * slowest)
    return Text(f"{duration(max(now - updated, 0))} ago", style="yellow" if silent else "")


def _left(seconds: float) -> str:
    return duration(seconds) if seconds > 0 else "–"  # also of nan


Rows = dict[str, list[Run]]


def _studies(workdir: Path) -> Iterator[tuple[str, tuple[Sequence[str], Rows]]]:
    """Name → (why a rehearsal, row label → runs) of every study; runs of no study under "other runs"."""
    found = {}
    for path in sorted(workdir.glob("runs/*")):
        described = next(iter(sorted(path.glob("seed_*/trial.json"))), None)
        if described is not None:
            found[path] = _described(described)
    taken: set[Path] = set()
    for path in sorted(workdir.glob("studies/*.json")):
        if (noted := records.read_study(workdir, path.stem)) is None:  # removed meanwhile
            continue
        rows: Rows = {}
        for label, trial in noted["trials"].items():
            phases = list(_phases(trial))
            places = [next((place for place, held in found.items() if held == phase), None) for phase in phases]
            taken.update(place for place in places if place is not None)
            rows[label] = [_run(phases, places, seed) for seed in range(noted["runs"])]
        yield path.stem, (noted["rehearsal"], rows)
    others: Rows = {}
    for place, trial in found.items():
        if place not in taken:
            seeds = sorted(int(directory.name.removeprefix("seed_")) for directory in place.glob("seed_*"))
            others[place.name] = [_run([trial], [place], seed) for seed in seeds]
    if others:
        yield "other runs", ((), others)


def _phases(trial: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The trials that a described trial starts from, and itself."""
    if trial.get("start_from"):
        yield from _phases(trial["start_from"])
    yield trial


def _run(phases: Sequence[Mapping[str, Any]], places: Sequence[Path | None], seed: int) -> Run:
    losses, seconds, status, updated = [], [], "not begun", 0.0
    for place in places:
        directory = None if place is None else place / f"seed_{seed}"
        if directory is None or not directory.exists():
            status = "unfinished" if losses else "not begun"
            continue
        history = _history(directory)
        losses += [epoch.get("train_loss", np.nan) for epoch in history]
        seconds += [epoch.get("seconds", np.nan) for epoch in history]
        status = records.read_ended(directory)["status"] if records.is_finished(directory) else "unfinished"
        files = [directory / name for name in ("trial.json", "metrics.jsonl", "result.json", "checkpoints")]
        updated = max([updated, *(file.stat().st_mtime for file in files if file.exists())])
    length = sum(phase["recipe"]["length"]["count"] for phase in phases)
    return Run(seed=seed, length=length, losses=losses, seconds=seconds, status=status, updated=updated)


def _history(directory: Path) -> Sequence[Mapping[str, float]]:
    path = directory / "metrics.jsonl"
    return _read_history(directory, path.stat().st_mtime_ns) if path.exists() else ()


@functools.lru_cache(maxsize=4096)
def _read_history(directory: Path, changed: int) -> Sequence[Mapping[str, float]]:
    """Epochs of a run whose file was last `changed` at that time; what has not changed is not read again."""
    return records.read_history(directory)


@functools.cache
def _described(path: Path) -> Mapping[str, Any]:
    return records.read_object(path, recipe=dict)
