import pytest

from benchmarks import timing


@pytest.fixture
def run(monkeypatch):
    """Steps on a clock of their own: of as many seconds each as `steps_of` says."""
    now, taken = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def steps_of(seconds):
        def run(steps):
            taken.append(steps)
            now[0] += sum(seconds(len(taken)) for _ in range(steps))

        return run

    run = steps_of
    run.taken = taken
    return run


def test_rounds_of_short_steps_fill_the_time(run):
    found = timing.time_steps(run(lambda call: 0.01), 10.0)
    assert found["step_s"] == pytest.approx(0.01)
    assert found["rounds"] == timing.ROUNDS == len(run.taken) - 2  # two calls warm up
    assert found["rounds"] * found["steps_per_round"] * 0.01 == pytest.approx(10, rel=0.1)


def test_steps_longer_than_the_time_end_after_twice_of_it(run):
    found = timing.time_steps(run(lambda call: 6.0), 10.0)
    assert (found["rounds"], found["steps_per_round"], found["step_s"]) == (3, 1, 6.0)
    found = timing.time_steps(run(lambda call: 100.0), 10.0)
    assert (found["rounds"], found["steps_per_round"], found["step_s"]) == (1, 1, 100.0)


def test_a_slow_round_does_not_move_the_median(run):
    found = timing.time_steps(run(lambda call: 5.0 if call == 4 else 0.5), 9.0)
    assert (found["step_s_min"], found["step_s"], found["step_s_max"]) == (0.5, 0.5, 5.0)
