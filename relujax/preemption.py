"""SIGTERM and Ctrl-C while training: noted at once, obeyed at the next step, so that nothing is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_STATUS = 3  # run the same command again to go on
SAID = "interrupted: the same command again goes on where this one was"


class Preempted(KeyboardInterrupt):
    """Training was asked to end and has saved what it had; the same call again goes on."""


class Interrupt:
    """A handler that raises KeyboardInterrupt and remembers it: raised inside a callback, say of the garbage collector,
    Python drops it."""

    asked = False

    def __call__(self, *_: object) -> None:
        self.asked = True
        raise KeyboardInterrupt


@contextmanager
def noted_signals() -> Iterator[threading.Event]:
    """Yields an event that SIGTERM or Ctrl-C sets; further signals change nothing, so that a save under way ends.

    It is set from the start where an `Interrupt` was asked before and its exception got lost.
    The handlers that were there before come back at the end. Outside the main thread, where Python allows no handler,
    the event is never set.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    if any(isinstance(handler, Interrupt) and handler.asked for handler in before.values()):
        asked.set()
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
