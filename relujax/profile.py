"""A trace of what the devices do while certain steps are trained, for TensorBoard's profiler, xprof or Perfetto."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from relujax.errors import InputError


def parse_steps(text: str) -> tuple[int, int]:
    """ "20:25" → (20, 25)."""
    start, _, stop = text.partition(":")
    return check_steps((int(start), int(stop)) if start.isdecimal() and stop.isdecimal() else text)


def check_steps(steps: Any) -> tuple[int, int]:
    """Two whole numbers, the first the smaller; anything else is refused."""
    match steps:
        case (int(start), int(stop)) if 0 <= start < stop:
            return start, stop
    raise InputError(f"steps are START:STOP with START < STOP, counted from 0, e.g. 20:25; got {steps!r}")


class Profile:
    """Traces the steps from `start` up to `stop` into `directory`; without steps, nothing.

    Where an epoch is one call of a compiled program, the trace has the whole epochs that these steps lie in.
    """

    def __init__(self, steps: tuple[int, int] | None, directory: Path):
        self.start, self.stop = steps or (0, 0)
        self.directory = directory
        self.running = self.traced = False

    def before(self, step: int, until: int) -> None:
        """To be told that the steps from `step` up to `until` come next."""
        wanted = step < self.stop and until > self.start
        if wanted and not self.running:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # the devices' work would drown in it
            jax.profiler.start_trace(self.directory, profiler_options=options)
            self.traced = True
        if self.running and not wanted:
            jax.profiler.stop_trace()
        self.running = wanted

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.before(self.stop, self.stop)
        if self.stop and not self.traced:
            said = "steps %d to %d were not among those trained: nothing is traced"
            logging.getLogger(__name__).warning(said, self.start, self.stop)
