"""How long functions take beside one another, on a machine that is never quiet."""

import time
from collections.abc import Callable, Mapping

import numpy as np

Call = Callable[[], object]  # returns when its work is done: a compiled function must wait for its result


def seconds_per_call(
    functions: Mapping[str, Call],
    *,
    repeats: int,
    rounds: int = 5,
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds that one call of each function takes, (repeats,) each.

    Each function is called once untimed, so that it is compiled and its data are in reach. In a round every function is
    timed over `calls` calls, and the next round takes them in the other order, so that whatever slows the machine for a
    while slows all of them. The value of a repeat is the median of its rounds.
    """
    for function in functions.values():
        function()
    order = tuple(functions)
    seconds = {name: np.empty((repeats, rounds)) for name in order}
    for position in range(repeats * rounds):
        for name in order if position % 2 == 0 else reversed(order):
            seconds[name].flat[position] = _seconds(functions[name], calls, clock) / calls
    return {name: np.median(values, axis=1) for name, values in seconds.items()}


def _seconds(function: Call, calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        function()
    return clock() - start
