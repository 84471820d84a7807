"""What a person sees while runs train: one live bar on a terminal or in a notebook, a line twice a minute elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

SECONDS_BETWEEN_LINES = 30


class Reporter(Protocol):
    """Told after each epoch of a group of runs."""

    def __call__(self, label: str, *, runs: int, images: int, loss: float) -> None: ...


def silent(label: str, *, runs: int, images: int, loss: float) -> None:
    """Says nothing."""


@contextmanager
def progress(total: int, done: int) -> Iterator[Reporter]:
    """Shows `done` of `total` run-epochs, images per second and the time left."""
    from rich.console import Console

    console = Console(stderr=True)
    shown = _notebook_bar if console.is_jupyter else _bar if console.is_terminal else _lines
    with shown(console, total, done) as reporter:
        yield reporter


@contextmanager
def _bar(console, total: int, done: int) -> Iterator[Reporter]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("run-epochs · {task.fields[speed]} images/s · loss {task.fields[loss]} ·"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, speed_estimate_period=120) as bar:
        task = bar.add_task("starting", total=total, completed=done, speed="–", loss="–")
        speed = _Speed()

        def report(label: str, *, runs: int, images: int, loss: float) -> None:
            bar.update(task, advance=runs, description=label, speed=f"{speed(images):,.0f}", loss=f"{loss:.4f}")

        yield report


@contextmanager
def _notebook_bar(console, total: int, done: int) -> Iterator[Reporter]:
    """A bar that is updated in place; rich's needs ipywidgets, which not every notebook has."""
    import html

    from IPython.display import HTML, DisplayHandle  # pyright: ignore[reportMissingImports]

    begun, now_done, speed = time.monotonic(), done, _Speed()

    def bar(words: str) -> HTML:
        return HTML(f'<progress value="{now_done}" max="{total}"></progress> {html.escape(words)}')

    shown = DisplayHandle()
    shown.display(bar("starting"))

    def report(label: str, *, runs: int, images: int, loss: float) -> None:
        nonlocal now_done
        now_done += runs
        left = duration((time.monotonic() - begun) / (now_done - done) * (total - now_done))
        words = f"{label}: {now_done}/{total} run-epochs · {speed(images):,.0f} images/s · loss {loss:.4f}"
        shown.update(bar(f"{words} · {left} left"))

    yield report


@contextmanager
def _lines(console, total: int, done: int) -> Iterator[Reporter]:
    begun = last = time.monotonic()
    now_done = done
    speed = _Speed()

    def report(label: str, *, runs: int, images: int, loss: float) -> None:
        nonlocal now_done, last
        now_done += runs
        rate, now = speed(images), time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or now_done == total:
            left = duration((now - begun) / (now_done - done) * (total - now_done))
            line = f"{now_done}/{total} run-epochs, {rate:,.0f} images/s, loss {loss:.4f}, {left} left"
            print(f"{label}: {line}", file=sys.stderr, flush=True)
            last = now

    yield report


class _Speed:
    """Images per second since the last call."""

    def __init__(self):
        self.last = time.monotonic()

    def __call__(self, images: int) -> float:
        now = time.monotonic()
        speed = images / max(now - self.last, 1e-9)
        self.last = now
        return speed


def duration(seconds: float) -> str:
    """12 s, 3.4 min, 5.6 h or 7.8 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
