"""What the tests of interrupted runs share."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from relujax import records


class Killed(BaseException):
    """Nothing that trains catches it."""


@contextmanager
def killed_after_noting(epochs: int) -> Iterator[None]:
    """Within, training ends when so many epochs, of all runs, are written down; the last one's checkpoint is not."""
    append, noted = records.append_epoch, []

    def append_until_killed(*args):
        append(*args)
        noted.append(args)
        if len(noted) == epochs:
            raise Killed

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(records, "append_epoch", append_until_killed)
        yield


def numbers(run):
    """A run's curves without wall-clock fields."""
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in run.history]
