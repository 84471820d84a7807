import numpy as np
import pytest

from relujax.timing import seconds_per_call


class Machine:
    """A clock that stands still but for the functions that run, and a list of who ran."""

    def __init__(self):
        self.now, self.ran, self.slowness = 0.0, [], 1.0

    def clock(self):
        return self.now

    def function(self, name, seconds):
        def call():
            self.ran.append(name)
            self.now += seconds * self.slowness

        return call


@pytest.fixture
def machine():
    return Machine()


def timed(machine, **kwargs):
    functions = {"fast": machine.function("fast", 1.0), "slow": machine.function("slow", 3.0)}
    return seconds_per_call(functions, clock=machine.clock, **kwargs)


def test_each_repeat_is_the_time_of_one_call(machine):
    seconds = timed(machine, repeats=4, rounds=3, calls=10)
    np.testing.assert_allclose(seconds["fast"], np.full(4, 1.0))
    np.testing.assert_allclose(seconds["slow"], np.full(4, 3.0))


def test_functions_are_warmed_up_then_take_turns_from_both_ends(machine):
    timed(machine, repeats=1, rounds=3, calls=2)
    warm_up, rounds = machine.ran[:2], machine.ran[2:]
    assert warm_up == ["fast", "slow"]
    there, back = ["fast", "fast", "slow", "slow"], ["slow", "slow", "fast", "fast"]
    assert rounds == there + back + there


def test_the_first_call_is_not_timed(machine):
    function = machine.function("f", 1.0)

    def compiles_first():
        machine.now += 0.0 if machine.ran else 100.0
        function()

    assert seconds_per_call({"f": compiles_first}, repeats=1, rounds=1, clock=machine.clock)["f"] == [1.0]


def test_an_interruption_of_one_round_does_not_count(machine):
    function = machine.function("f", 1.0)

    def interrupted():
        machine.slowness = 50.0 if len(machine.ran) == 3 else 1.0
        function()

    seconds = seconds_per_call({"f": interrupted}, repeats=1, rounds=5, clock=machine.clock)
    np.testing.assert_allclose(seconds["f"], [1.0])


def test_a_real_clock_tells_more_work_from_less():
    functions = {"short": lambda: sum(range(100)), "long": lambda: sum(range(20_000))}
    seconds = seconds_per_call(functions, repeats=3, calls=3)
    assert np.median(seconds["short"]) < np.median(seconds["long"])
