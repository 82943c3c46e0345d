import dataclasses
import gzip
import json
import threading

import jax
import jax.numpy as jnp
import optax
import pytest
from toy import Counter, Regression, StopAt, make_trainer

from trainer import plugins
from trainer.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    NonFiniteGuard,
    Profiler,
    Progress,
    Report,
    Summary,
    TimeLimit,
)
from trainer.checkpoints import finished
from trainer.errors import ConfigError, TrainingError
from trainer.stopping import StopFlag
from trainer.task import Evaluation, Evaluator
from trainer.writers import Writer, read_jsonl


class Figures(Evaluator):
    """Gives the figure of each step from a list."""

    def __init__(self, figures):
        self.figures = figures

    def evaluate(self, *, step, **_):
        return Evaluation({"figure": self.figures[step - 1]})


def fit(workdir, callbacks, **changes):
    plain = dict(eval_data=None, evaluators={}, log_every=1, eval_every=1, checkpoint_every=2, steps=12)
    return make_trainer(workdir, callbacks=callbacks, **{**plain, **changes}).fit()


def test_the_guard_fails_and_names_the_last_good_checkpoint(tmp_path):
    data = Counter(poison=range(6, 100))
    with pytest.raises(TrainingError) as caught:
        fit(tmp_path, [NonFiniteGuard(windows=3)], data=data)
    assert "At step 8" in str(caught.value)
    assert f"step 4 in {tmp_path / 'checkpoints'}" in str(caught.value)
    # The line that shows the trouble is there.
    assert '"step": 8' in (tmp_path / "metrics.jsonl").read_text()


def test_the_guard_lets_single_accidents_pass(tmp_path):
    result = fit(tmp_path, [NonFiniteGuard(windows=2)], data=Counter(poison=[2, 4, 6, 8]))
    assert result.step == 12


def test_the_guard_counts_over_a_restart(tmp_path):
    data = Counter(poison=range(1, 100))
    assert fit(tmp_path, [NonFiniteGuard(windows=3), StopAt(step=2)], data=data).step == 2
    with pytest.raises(TrainingError, match="At step 3"):
        fit(tmp_path, [NonFiniteGuard(windows=3)], data=data)


@pytest.mark.parametrize(
    ("mode", "figures", "expected"),
    [
        ("min", [5, 4, 4.5, 3, 3, 3, 3, 3], 6),
        ("max", [1, 2, 1, float("nan"), 9, 9, 9, 9], 4),
        ("min", [8, 7, 6, 5, 4, 3, 2, 1], 8),
        ("max", [1, float("inf"), 2, float("-inf"), 3, 3, 3, 3], 7),
    ],
)
def test_early_stopping_counts_evaluations_without_improvement(tmp_path, mode, figures, expected):
    callbacks = [EarlyStopping(metric="figure", patience=2, mode=mode)]
    result = fit(tmp_path, callbacks, evaluators={"f": Figures(figures)}, steps=8)
    assert result.step == expected
    assert finished(tmp_path).complete
    if expected < 8:
        assert "figure has not improved" in result.stopped.reason
        # It is finished: started again, nothing more happens.
        again = fit(tmp_path, callbacks, evaluators={"f": Figures(figures)}, steps=8)
        assert (again.step, again.stopped) == (expected, result.stopped)


def test_early_stopping_remembers_over_a_restart(tmp_path):
    @dataclasses.dataclass(kw_only=True)
    class Interrupt(Callback):
        def on_step_end(self, run, metrics):
            if run.step == 2:
                run.request_stop("interrupted", resumable=True)

    evaluators = {"f": Figures([1, 2, 3, 4, 5, 6])}
    fit(tmp_path, [EarlyStopping(metric="figure", patience=3), Interrupt()], evaluators=evaluators, steps=6)
    result = fit(tmp_path, [EarlyStopping(metric="figure", patience=3)], evaluators=evaluators, steps=6)
    assert result.step == 4


@pytest.mark.parametrize(("metric", "advice"), [("figur", "Did you mean 'figure'"), ("train/loss", "Figures: figure")])
def test_early_stopping_on_what_no_evaluation_gives_ends_the_run_saved(tmp_path, caplog, metric, advice):
    settings = {"evaluators": {"f": Figures([1, 2, 3, 4])}, "steps": 4}
    callbacks = {"stop": EarlyStopping(metric=metric)}
    with pytest.raises(ConfigError, match=f"callbacks.stop.metric = '{metric}', .* {advice}.* Step 1 is saved"):
        fit(tmp_path, callbacks, **settings)
    assert fit(tmp_path, {"stop": EarlyStopping(metric="figure")}, **settings).step == 4
    fit(tmp_path / "short", [EarlyStopping(metric=metric)], **{**settings, "steps": 1})  # nothing left to wait for
    assert f"EarlyStopping.metric = '{metric}', but no evaluation gives it. {advice}" in caplog.text
    with pytest.raises(ConfigError, match=f"EarlyStopping.metric = '{metric}', but the run has no evaluation"):
        fit(tmp_path / "none", [EarlyStopping(metric=metric)], steps=4, eval_data=None, evaluators={})
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="'down'"):
        EarlyStopping(metric="figure", mode="down")


@pytest.mark.parametrize(
    ("callbacks", "expected"),
    [
        ({"stop": {"patience": 2, "metric": "figure"}}, 4),  # the same
        ({"stop": {"patience": 2, "metric": "figure"}, "new": {"patience": 9, "metric": "figure"}}, 4),
        ({}, 8),
        ({"stop": {"patience": 3, "metric": "figure"}}, 5),
        ({"stop": {"patience": 2, "metric": "figure", "mode": "max"}}, 8),  # begins anew
        ({"other": {"patience": 2, "metric": "figure"}}, 7),  # begins anew
    ],
)
def test_a_run_that_was_stopped_early_goes_on_without_the_callback_or_with_other_settings(
    tmp_path, callbacks, expected
):
    def run(callbacks):
        built = {name: EarlyStopping(**settings) for name, settings in callbacks.items()}
        figures = {"f": Figures([1, 0, 3, 4, 5, 6, 7, 8])}
        return fit(tmp_path, built, evaluators=figures, steps=8, config={"callbacks": callbacks})

    first = {"stop": {"patience": 2, "metric": "figure"}}
    assert run(first).step == 4
    again = run(callbacks)
    assert again.step == expected
    assert finished(tmp_path) == (expected, 8, True)
    assert run(callbacks) == again


def test_a_run_that_was_stopped_early_stays_so_when_something_else_is_taken_away(tmp_path):
    stopping = {"stop": EarlyStopping(metric="figure", patience=1)}
    settings = dict(evaluators={"f": Figures([1, 2, 3, 4])}, steps=4)
    result = fit(tmp_path, stopping, config={"callbacks": {"stop": {}, "bell": {}}}, **settings)
    again = {"stop": EarlyStopping(metric="figure", patience=1)}
    assert fit(tmp_path, again, config={"callbacks": {"stop": {}}}, **settings) == result
    assert result.step == 2


def test_the_time_limit_stops_resumably(tmp_path):
    result = fit(tmp_path, [TimeLimit(seconds=0.0)])
    assert result.step == 1
    assert result.stopped.resumable
    assert "time limit" in result.stopped.reason
    assert not finished(tmp_path).complete


def test_the_time_limit_counts_from_the_beginning_of_the_command(tmp_path):
    flag = StopFlag()
    assert make_trainer(tmp_path / "a", callbacks=[TimeLimit(seconds=60)], steps=3).fit(flag).step == 3
    flag.made -= 61  # the command has lasted for long, with upstream runs perhaps
    assert make_trainer(tmp_path / "b", callbacks=[TimeLimit(seconds=60)], steps=3).fit(flag).step == 1


def test_every_process_has_the_whole_time_limit(tmp_path):
    assert fit(tmp_path, [TimeLimit(seconds=0.0)]).step == 1
    assert fit(tmp_path, [TimeLimit(seconds=0.0)]).step == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimeLimit(seconds=-1), "seconds=-1"),
        (lambda: TimeLimit(seconds=float("nan")), "seconds=nan"),
        (lambda: EarlyStopping(metric=""), "metric is empty"),
        (lambda: EarlyStopping(metric="a", min_delta=-1), "min_delta=-1"),
        (lambda: NonFiniteGuard(windows=0), "windows=0"),
        (lambda: NonFiniteGuard(max_skipped=1), "max_skipped=1"),
        (lambda: Summary(max_lines=0), "max_lines=0"),
        (lambda: Report(interval=-1), "interval=-1"),
        (lambda: Progress(refresh=-1), "refresh=-1"),
        (lambda: Profiler(start=-1), "start=-1"),
        (lambda: Profiler(steps=0), "steps=0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_summary_shows_parameters_and_writes_them_once(tmp_path, capsys):
    texts = []

    class Texts(Writer):
        def write_texts(self, step, given):
            texts.append((step, given))

    class Odd(Regression):
        def init_params(self, rng, batch):
            return {**super().init_params(rng, batch), "\x1b[31mred": jnp.zeros(2)}

    fit(tmp_path, [Summary()], task=Odd(), steps=1, writers=[Texts()])
    shown = capsys.readouterr().err
    assert "layer/w" in shown
    assert "Total: 14" in shown
    assert "\x1b" not in shown
    fit(tmp_path, [Summary()], task=Odd(), steps=2, writers=[Texts()])
    assert "layer/w" in capsys.readouterr().err
    [(step, written)] = texts
    assert step == 0
    assert "layer/w" in written["parameters"]


def test_fit_works_in_another_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(tmp_path, [], steps=2)))
    thread.start()
    thread.join()
    assert results[0].step == 2


def test_log_callbacks_may_add_to_the_line(tmp_path):
    @dataclasses.dataclass(kw_only=True)
    class Adds(Callback):
        def on_log(self, run, scalars):
            scalars["train/extra"] = 5.0

    assert fit(tmp_path, [Adds()], steps=1).metrics["train/extra"] == 5.0
    assert '"train/extra": 5.0' in (tmp_path / "metrics.jsonl").read_text()


def stoppers(*metrics):
    return {f"stop_{metric}": EarlyStopping(metric=metric, patience=9) for metric in metrics}


def progress(callbacks):
    return [(state["best"], state["waited"]) for state in (callback.state() for callback in callbacks)]


class Falling(Evaluator):
    def evaluate(self, *, step, **_):
        return Evaluation({"other": -step, "new": -step})


def test_callbacks_keep_their_state_by_name(tmp_path):
    evaluators = {"f": Figures([1, 2, 3, 4]), "g": Falling()}
    fit(tmp_path, stoppers("figure", "other"), evaluators=evaluators, steps=3)
    again = stoppers("new", "other", "figure")
    fit(tmp_path, again, evaluators=evaluators, steps=3)
    assert progress(again.values()) == [(None, 0), (-3, 0), (1, 2)]


def test_callbacks_without_names_keep_their_state_by_number_and_may_get_names(tmp_path):
    evaluators = {"f": Figures([1, 2, 3, 4]), "g": Falling()}
    fit(tmp_path, list(stoppers("figure", "other").values()), evaluators=evaluators, steps=3)
    for again in (list(stoppers("figure", "other").values()), stoppers("figure", "other")):
        fit(tmp_path, again, evaluators=evaluators, steps=3)
        assert progress(again.values() if isinstance(again, dict) else again) == [(1, 2), (-3, 0)]


def test_a_name_that_now_stands_for_another_callback_starts_afresh(tmp_path):
    fit(tmp_path, {"one": EarlyStopping(metric="figure")}, evaluators={"f": Figures([1, 2])}, steps=2)
    fit(tmp_path, {"one": NonFiniteGuard()}, evaluators={"f": Figures([1, 2])}, steps=2)


@dataclasses.dataclass(kw_only=True)
class Broken(Callback):
    where: str

    def on_log(self, run, scalars):
        self._fail("on_log")

    def on_exception(self, run, error):
        self._fail("on_exception")

    def load_state(self, state):
        self._fail("load_state")

    def _fail(self, hook):
        if hook in self.where:
            raise RuntimeError(f"boom in {hook}")


def test_an_exception_names_the_callback_as_the_config_does(tmp_path):
    with pytest.raises(RuntimeError, match="boom") as caught:
        fit(tmp_path, {"mine": Broken(where="on_log")})
    assert caught.value.__notes__ == ["raised in Broken.on_log (callbacks.mine)"]
    fit(tmp_path, {"mine": Broken(where="")}, steps=2)
    with pytest.raises(RuntimeError, match="boom") as caught:
        fit(tmp_path, {"mine": Broken(where="load_state")}, steps=2)
    assert caught.value.__notes__ == ["raised in Broken.load_state (callbacks.mine)"]


def test_an_exception_on_the_way_out_hides_nothing(tmp_path, caplog):
    seen = []

    @dataclasses.dataclass(kw_only=True)
    class Witness(Callback):
        def on_exception(self, run, error):
            seen.append(str(error))

    with pytest.raises(RuntimeError, match="boom in on_log"):
        fit(tmp_path, {"bad": Broken(where="on_log on_exception"), "last": Witness(order=9)})
    assert seen == ["boom in on_log"]
    assert "boom in on_exception" in caplog.text
    assert "callbacks.bad" in caplog.text


def test_the_guard_of_a_task_that_counts_nothing_does_not_say_what_it_cannot_know(tmp_path):
    class Careless(Regression):
        def train_step(self, state, frozen, batch, update):
            return state._replace(step=state.step + 1), {"loss": jnp.log(-1.0)}

    with pytest.raises(TrainingError, match="the loss since the last log line was not finite") as caught:
        fit(tmp_path, [NonFiniteGuard(windows=2)], task=Careless())
    assert "applied" not in str(caught.value)


def schedule(step):
    return 0.1 / (1 + step)


@dataclasses.dataclass(kw_only=True)
class OptimizersOwn(Callback):
    """Logs the rate that the optimiser used for the last update it keeps."""

    def on_log(self, run, scalars):
        scalars["train/own"] = float(run.state.opt_state.hyperparams["learning_rate"])


def test_the_learning_rate_is_that_of_the_last_applied_update(tmp_path):
    def callbacks():
        return [LearningRateMonitor(schedule=schedule), OptimizersOwn()]

    settings = dict(optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=schedule), log_every=1)
    data = Counter(poison=[1, 3, 4])
    fit(tmp_path, [*callbacks(), StopAt(step=5)], data=data, **settings)
    fit(tmp_path, callbacks(), data=data, **{**settings, "steps": 8})
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert "train/learning_rate" not in lines[0]
    rates = [line["train/learning_rate"] for line in lines[1:]]
    assert rates == pytest.approx([0.1 / (1 + done) for done in (0, 0, 0, 1, 2, 3, 4)])
    assert rates == pytest.approx([line["train/own"] for line in lines[1:]])


def test_a_config_gets_the_learning_rate_monitor_by_name():
    built = plugins.build({"target": "learning_rate_monitor"}, "callbacks", schedule=schedule)
    assert built.schedule is schedule


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gradient_norm_is_the_one_before_clipping(tmp_path, accumulate):
    norms = {}
    for clip in (1e-3, 1e3):
        optimizer = optax.chain(optax.clip_by_global_norm(clip), optax.sgd(0.1))
        result = fit(tmp_path / str(clip), [], steps=1, optimizer=optimizer, accumulate=accumulate)
        norms[clip] = result.metrics["train/grad_norm"]
    assert norms[1e-3] == norms[1e3] > 1e-2


def traced_steps(workdir):
    """The steps that each trace holds, by its time."""
    traces = sorted((workdir / "profile").rglob("*.trace.json.gz"))
    assert len(traces) == len(list((workdir / "profile").rglob("*.xplane.pb")))
    found = []
    for path in traces:
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        found.append(sorted(int(e["args"]["step_num"]) for e in events if e.get("name") == "train"))
        assert len(events) > 10 * len(found[-1])  # and what happened in them
    return found


def test_the_profiler_traces_its_steps(tmp_path, capsys):
    fit(tmp_path, [Profiler(start=4, steps=3)], steps=8)
    assert traced_steps(tmp_path) == [[4, 5, 6]]
    assert f"profile of steps 4 to 6: {tmp_path / 'profile'}" in capsys.readouterr().err


@dataclasses.dataclass(kw_only=True)
class Asks(Callback):
    step: int

    def on_step_end(self, run, metrics):
        if run.step == self.step:
            (run.workdir / "PROFILE").touch()


def test_the_profiler_takes_requests_at_log_lines(tmp_path):
    fit(tmp_path, [Profiler(steps=2), Asks(step=4)], steps=12, log_every=3)
    assert traced_steps(tmp_path) == [[7, 8]]
    assert not (tmp_path / "PROFILE").exists()


@pytest.mark.parametrize("resumable", [True, False])
def test_a_trace_is_closed_by_a_stop_and_not_taken_again(tmp_path, resumable):
    fit(tmp_path, [Profiler(start=2, steps=9), StopAt(step=3, resumable=resumable)], steps=5)
    assert traced_steps(tmp_path) == [[2, 3]]
    fit(tmp_path, [Profiler(start=2, steps=9)], steps=5)
    assert traced_steps(tmp_path) == [[2, 3]]


def test_a_trace_is_closed_by_an_exception(tmp_path):
    @dataclasses.dataclass(kw_only=True)
    class Fails(Callback):
        def on_step_start(self, run):
            if run.step == 3:
                raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fit(tmp_path, [Profiler(start=2, steps=9), Fails()], steps=5)
    assert traced_steps(tmp_path)[0][:2] == [2, 3]


def test_a_profile_that_cannot_be_taken_ends_no_run(tmp_path, caplog):
    jax.profiler.start_trace(str(tmp_path / "other"))
    try:
        assert fit(tmp_path / "run", [Profiler(start=1)], steps=3).step == 3
    finally:
        jax.profiler.stop_trace()
    assert "Profiler: " in caplog.text
    assert list((tmp_path / "other").rglob("*.xplane.pb"))
