import dataclasses
import logging
import threading

import pytest
from toy import Counter, make_trainer

from trainer.callbacks import Callback, EarlyStopping, NonFiniteGuard, Progress, Summary, TimeLimit
from trainer.checkpoints import finished
from trainer.errors import ConfigError, TrainingError
from trainer.task import Evaluation, Evaluator
from trainer.writers import Writer


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
    assert fit(tmp_path, [NonFiniteGuard(windows=3)], data=data, steps=2).step == 2
    with pytest.raises(TrainingError, match="At step 3"):
        fit(tmp_path, [NonFiniteGuard(windows=3)], data=data)


@pytest.mark.parametrize(
    ("mode", "figures", "expected"),
    [
        ("min", [5, 4, 4.5, 3, 3, 3, 3, 3], 6),
        ("max", [1, 2, 1, float("nan"), 9, 9, 9, 9], 4),
        ("min", [8, 7, 6, 5, 4, 3, 2, 1], 8),
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


def test_early_stopping_on_an_unknown_metric_says_so(tmp_path, caplog):
    fit(tmp_path, [EarlyStopping(metric="figur")], evaluators={"f": Figures([1, 2])}, steps=2)
    assert "Did you mean 'figure'" in caplog.text
    with pytest.raises(ConfigError, match="'down'"):
        EarlyStopping(metric="figure", mode="down")


def test_the_time_limit_stops_resumably(tmp_path):
    result = fit(tmp_path, [TimeLimit(seconds=0.0)])
    assert result.step == 1
    assert result.stopped.resumable
    assert "time limit" in result.stopped.reason
    assert not finished(tmp_path).complete


def test_progress_and_summary_say_what_a_person_wants_to_know(tmp_path, capsys):
    texts = {}

    class Texts(Writer):
        def write_texts(self, step, given):
            texts.update(given)

    fit(tmp_path, [Progress(interval=0.0), Summary()], evaluators={"f": Figures(range(12))}, writers=[Texts()])
    shown = capsys.readouterr().err
    assert "12 steps" in shown
    assert "ETA" in shown
    assert "frames/s" in shown
    assert "figure 10" in shown
    assert "layer/w" in shown
    assert "Total: 12" in shown
    assert "layer/w" in texts["parameters"]
    fit(tmp_path, [Progress()], steps=13, evaluators={"f": Figures(range(13))})
    assert "continues at step 12" in capsys.readouterr().err


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


def test_two_callbacks_of_a_kind_keep_their_own_state(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    evaluators = {"f": Figures([1, 2, 3, 4])}
    callbacks = [EarlyStopping(metric="figure", patience=9), EarlyStopping(metric="other", patience=9)]
    fit(tmp_path, callbacks, evaluators=evaluators, steps=3)
    again = [EarlyStopping(metric="figure", patience=9), EarlyStopping(metric="other", patience=9)]
    fit(tmp_path, again, evaluators=evaluators, steps=3)
    assert [c.state() for c in again] == [{"best": 1, "waited": 2}, {"best": None, "waited": 0}]
