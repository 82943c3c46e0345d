import dataclasses
import fcntl
import io
import logging
import os
import pty
import re
import struct
import sys
import termios
import threading
import time

import pytest
from toy import Counter, Recorder, Regression, StopAt, make_trainer

from trainer import device_rate
from trainer.callbacks import Callback, Progress
from trainer.callbacks.bar import fit_line, width
from trainer.callbacks.progress import duration
from trainer.errors import DataError
from trainer.metrics import Clock
from trainer.task import Comparison, Evaluation, Evaluator
from trainer.writers import ConsoleWriter, JsonlWriter, read_jsonl


class Figures(Evaluator):
    comparisons = (Comparison("figures/important", "counts"),)

    def evaluate(self, *, step, **_):
        return Evaluation({"figures/a": 1.0, "figures/b": 2.0, "figures/c": 3.0, "figures/important": step})


class Costly(Regression):
    """Says that a row costs a million operations."""

    def flops_per_batch(self, batch):
        return 1e6 * batch["x"].shape[0]


def fit(workdir, callbacks, **changes):
    plain = dict(data=Counter(), eval_data=None, evaluators={"f": Figures()}, writers=[], log_every=3, eval_every=4)
    return make_trainer(workdir, callbacks=callbacks, **{**plain, "steps": 12, **changes}).fit()


class Screen(io.StringIO):
    """A terminal that keeps its rows, and every line that was ever drawn in place."""

    def __init__(self):
        super().__init__()
        self.rows, self.column, self.drawn, self.encoding_ = [""], 0, [], "utf-8"

    encoding = property(lambda self: self.encoding_)

    def isatty(self):
        return True

    def write(self, text):
        while text:
            if text.startswith("\x1b[K"):
                self.rows[-1] = self.rows[-1][: self.column]
                text = text[3:]
                continue
            character, text = text[0], text[1:]
            assert character != "\x1b"
            if character in "\r\n":
                if self.rows[-1] and character == "\r":
                    self.drawn.append(self.rows[-1])
                self.rows += [""] if character == "\n" else []
                self.column = 0
            else:
                row = self.rows[-1].ljust(self.column)
                self.rows[-1] = row[: self.column] + character + row[self.column + 1 :]
                self.column += 1


def look(monkeypatch):
    """Puts a screen in the place of the terminal; within a test, as pytest sets the streams anew for its body."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return screen


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (0.42, "0.4 s"),
        (0.97, "1 s"),
        (59.7, "1 min 00 s"),
        (130, "2 min 10 s"),
        (3599.9, "1 h 00 min"),
        (3720, "1 h 02 min"),
        (86400 + 4 * 3600 + 120, "1 d 04 h"),
    ],
)
def test_durations_are_said_as_people_do(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize("columns", [1, 10, 29, 30, 47, 80, 200])
@pytest.mark.parametrize("name", ["eval/psnr", "測定/値", "x" * 90])
def test_the_bar_is_narrower_than_the_terminal(columns, name):
    parts = ["step 1,234/5,000", "ETA 1 h 02 min", "12.3 steps/s", f"{name} 1.5", "last 1"]
    line = fit_line(0.5, parts, columns)
    assert width(line) < columns
    if columns >= 30:
        assert "step 1,234/5,000" in line
        assert line.count("█") == line[1:].index("]") // 2
    if columns == 200:
        assert line.endswith("  ".join(parts))


def test_a_part_without_room_leaves_its_place_to_the_next():
    assert fit_line(0.0, ["step 1/2", "x" * 60, "figure 1"], 50).endswith("step 1/2  figure 1")


def test_the_plain_lines_tell_what_a_person_wants_to_know(tmp_path, capsys):
    fit(tmp_path, [Progress(interval=0.0)])
    first, compiled, *lines, last = capsys.readouterr().err.splitlines()
    assert first == f"{tmp_path.name}: starts, 12 steps"
    assert compiled.startswith("first step after ")
    assert last.startswith(f"{tmp_path.name}: done, 12 steps in ")
    assert [line.split("  ")[0] for line in lines] == [f"step {n}/12" for n in (3, 6, 9, 12)]
    assert all(re.search(r"  ETA \d+\.\d s  .* steps/s", line) for line in lines)
    assert "  ETA 0.0 s  " in lines[-1]
    assert all("frames/s" in line and "utilization" in line for line in lines)
    assert "figures" not in lines[0]
    # The figure to judge the run by comes first, then the others, up to three.
    assert lines[-1].endswith("figures/important 8  figures/a 1  figures/b 2")
    fit(tmp_path, [Progress()], steps=13)
    resumed = capsys.readouterr().err.splitlines()
    assert resumed[0] == f"{tmp_path.name}: continues at step 12, 13 steps"
    assert "figures/important 12" in resumed[2]


def test_plain_lines_come_at_their_interval(tmp_path, capsys):
    fit(tmp_path, [Progress(interval=1000.0)])
    shown = capsys.readouterr().err
    assert "step 3/12" not in shown
    assert "step 12/12" in shown


def test_a_stop_is_told_with_what_to_do(tmp_path, capsys):
    fit(tmp_path, [Progress(), StopAt(step=5)])
    assert "stopped at step 5: test; start it again to continue" in capsys.readouterr().err


@dataclasses.dataclass(kw_only=True)
class Chatter(Callback):
    """Says things in every way there is."""

    order: int = 200

    def on_step_end(self, run, metrics):
        print(f"printed {run.step}")
        sys.stderr.write(f"written {run.step}\n")
        logging.getLogger("chatter").warning("logged %d", run.step)


def test_the_bar_makes_room_for_other_lines_and_goes_in_the_end(tmp_path, monkeypatch):
    screen = look(monkeypatch)
    handler = logging.StreamHandler(screen)
    logging.getLogger().addHandler(handler)
    try:
        fit(tmp_path, [Progress(refresh=0.0), Chatter()], writers=[ConsoleWriter()])
        assert not handler.filters
    finally:
        logging.getLogger().removeHandler(handler)
    assert (sys.stderr, sys.stdout) == (screen, screen)
    for n in range(1, 13):
        assert {f"printed {n}", f"written {n}", f"logged {n}"} <= set(screen.rows)
    logged = [row.split()[0] for row in screen.rows if re.match(r"\[\d+\] ", row)]
    assert logged == [f"[{n}]" for n in (3, 4, 6, 8, 9, 12, 12)]
    assert not any("█" in row or "·" in row for row in screen.rows)
    bars = [row for row in screen.drawn if row.startswith("[█") or row.startswith("[·")]
    assert len(bars) >= 12
    assert all(len(bar) < 120 for bar in bars)
    assert "step 12/12" in bars[-1]
    assert "ETA" in bars[-1]
    assert "figures/important 8" in bars[-1]


def test_the_bar_goes_before_the_error_is_shown(tmp_path, monkeypatch):
    screen = look(monkeypatch)
    with pytest.raises(DataError):
        fit(tmp_path, [Progress(refresh=0.0), Fails()])
    assert screen.drawn
    assert screen.rows[-1] == ""
    assert sys.stderr is screen


@dataclasses.dataclass(kw_only=True)
class Fails(Callback):
    order: int = 200

    def on_step_end(self, run, metrics):
        raise DataError("gone")


def test_a_dumb_terminal_and_an_old_encoding_get_what_they_can_show(tmp_path, monkeypatch):
    screen = look(monkeypatch)
    screen.encoding_ = "iso8859-1"
    fit(tmp_path / "a", [Progress(refresh=0.0)])
    assert any(row.startswith("[####") for row in screen.drawn)
    screen.drawn.clear()
    monkeypatch.setenv("TERM", "dumb")
    fit(tmp_path / "b", [Progress(refresh=0.0)])
    assert not screen.drawn


def test_a_real_terminal_of_any_width_is_never_overrun(tmp_path, monkeypatch):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    received = bytearray()

    def read():
        while True:
            try:
                received.extend(os.read(master, 1 << 16))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "500")  # what the terminal itself says counts
        fit(tmp_path, [Progress(refresh=0.0)])
        monkeypatch.undo()
    reader.join()
    os.close(master)
    screen = Screen()
    screen.write(received.decode())
    bars = [row for row in screen.drawn if row.startswith("[")]
    assert len(bars) >= 12
    assert all(len(bar) < 40 and "step" in bar for bar in bars)
    assert not any("█" in row for row in screen.rows)


def test_utilization_is_a_share_of_the_measured_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(device_rate, "matmul_flops_per_s", lambda dtype: {"float32": 2e9}[dtype])
    device_rate._rate.cache_clear()
    try:
        for callbacks in ([StopAt(step=5)], []):
            writers = [JsonlWriter(tmp_path / "metrics.jsonl")]
            fit(tmp_path, callbacks, task=Costly(), data=Counter(long_every=4), writers=writers)
    finally:
        device_rate._rate.cache_clear()
    lines = [line for line in read_jsonl(tmp_path / "metrics.jsonl") if "train/loss" in line]
    assert [line["step"] for line in lines] == [3, 6, 9, 12]
    for line in lines:  # frames are rows, also in the window that a stop has cut in two
        assert line["train/utilization"] == pytest.approx(line["train/frames_per_s"] * 1e6 / 2e9)


def test_the_devices_rate_is_credible_and_measured_once(monkeypatch):
    rate = device_rate.matmul_flops_per_s()
    assert 1e8 < rate < 1e17
    monkeypatch.setattr(device_rate.jax, "jit", None)
    assert device_rate.matmul_flops_per_s() == rate


def test_a_rate_that_cannot_be_measured_ends_no_run(tmp_path, monkeypatch, caplog):
    def fails(dtype):
        raise device_rate.jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(device_rate, "matmul_flops_per_s", fails)
    device_rate._rate.cache_clear()
    try:
        assert "train/utilization" not in fit(tmp_path, [], task=Costly(), steps=6).metrics
    finally:
        device_rate._rate.cache_clear()
    assert len([r for r in caplog.records if "RESOURCE_EXHAUSTED" in r.getMessage()]) == 1


def test_the_clock_may_be_paused_by_a_callback_that_is_called_while_it_stands():
    clock = Clock()
    clock.start(5.0)
    with clock.paused():
        before = clock.seconds
        with clock.paused():
            time.sleep(0.01)
        time.sleep(0.01)
        assert clock.seconds == before
    time.sleep(0.01)
    assert clock.seconds > before


def test_the_first_speed_is_told_before_the_first_log_line(tmp_path, monkeypatch):
    screen = look(monkeypatch)
    fit(tmp_path, [Progress(refresh=0.0), Recorder()], log_every=100, eval_every=0)
    bars = [row for row in screen.drawn if "step " in row and row.startswith("[")]
    assert "ETA" not in bars[0]
    assert "ETA" in bars[-1]
