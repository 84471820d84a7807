import pytest

from relujax.errors import InputError
from relujax.profile import Profile, parse_steps


@pytest.mark.parametrize("text", ["3", "5:5", "7:5", "-1:2", "a:b", ":", "1:2:3"])
def test_steps_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="START:STOP"):
        parse_steps(text)


@pytest.mark.parametrize("per_call, traced", [(1, [3, 4]), (4, [0, 1, 2, 3, 4, 5, 6, 7])])
def test_the_wanted_steps_are_traced_and_whole_calls(monkeypatch, tmp_path, per_call, traced):
    running = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda *args, **named: running.append(True))
    monkeypatch.setattr("jax.profiler.stop_trace", running.clear)
    seen = []
    with Profile(parse_steps("3:5"), tmp_path) as profile:
        for step in range(0, 12, per_call):
            profile.before(step, step + per_call)
            seen += list(range(step, step + per_call)) if running else []
    assert seen == traced and not running


def test_a_trace_that_ends_with_the_run_is_written(tmp_path):
    with Profile((0, 100), tmp_path) as profile:
        profile.before(0, 100)
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_steps_that_do_not_come_are_said(tmp_path, caplog):
    with Profile((1000, 2000), tmp_path) as profile:
        profile.before(0, 18)
    assert "steps 1000 to 2000 were not among those trained" in caplog.text and not list(tmp_path.iterdir())
