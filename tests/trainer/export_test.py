import csv
import io
import math

import pytest
from toy import Counter, make_trainer

from trainer.errors import DataError
from trainer.export import to_csv
from trainer.writers import JsonlWriter


def write(folder, *lines):
    writer = JsonlWriter(folder / "metrics.jsonl")
    for step, scalars in lines:
        writer.write_scalars(step, scalars)
    writer.close()


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_lines_of_a_step_become_one_row_and_every_scalar_a_column(tmp_path):
    write(
        tmp_path,
        (5, {"time": 1.5, "train/loss": 0.1 + 0.2}),
        (10, {"time": 3.0, "train/loss": 0.25}),
        (10, {"time": 3.5, "eval/loss": -2.0}),
    )
    to_csv(tmp_path, tmp_path / "run.csv")
    assert (tmp_path / "run.csv").read_bytes() == (
        b"step,time,train/loss,eval/loss\r\n5,1.5,0.30000000000000004,\r\n10,3.5,0.25,-2.0\r\n"
    )


def test_values_that_are_not_finite_stay_what_they_are(tmp_path):
    write(tmp_path, (1, {"a": math.nan, "b": math.inf, "c": -math.inf}))
    to_csv(str(tmp_path), str(tmp_path / "run.csv"))
    assert read(tmp_path / "run.csv") == [["step", "time", "a", "b", "c"], ["1", "", "NaN", "Infinity", "-Infinity"]]
    assert [float(cell) for cell in read(tmp_path / "run.csv")[1][3:]] == [math.inf, -math.inf]


def test_any_name_can_be_read_back(tmp_path):
    names = ['a "quoted", name', "two\nlines", "carriage\rreturn", "a\0b", "line\u2028separator", "ü", "x" * 5000]
    write(tmp_path, (1, {**dict.fromkeys(names, 1.0), "half\udcff": 2.0}))
    to_csv(tmp_path, tmp_path / "run.csv")
    header, row = read(tmp_path / "run.csv")
    assert header == ["step", "time", *names, "half\\udcff"]
    assert row == ["1", "", *["1.0"] * len(names), "2.0"]


def test_it_may_go_to_an_open_file(tmp_path):
    write(tmp_path, (1, {"a": 1.0}))
    file = io.StringIO()
    to_csv(tmp_path, file)
    assert file.getvalue() == "step,time,a\r\n1,,1.0\r\n"


def test_a_run_has_a_row_for_every_step_with_a_figure(tmp_path):
    result = make_trainer(tmp_path, data=Counter(), steps=12, log_every=3, eval_every=4).fit()
    to_csv(tmp_path, tmp_path / "run.csv")
    header, *rows = read(tmp_path / "run.csv")
    assert [int(row[0]) for row in rows] == [3, 4, 6, 8, 9, 12]
    assert set(header) == {"step", "time", *result.metrics}
    last = dict(zip(header, rows[-1], strict=True))
    assert {name: float(last[name]) for name in result.metrics} == result.metrics


def test_a_folder_without_metrics_is_named(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        to_csv(tmp_path / "nothing", tmp_path / "run.csv")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": "words"}\n')
    with pytest.raises(DataError, match="cannot be read"):
        to_csv(tmp_path, tmp_path / "run.csv")
    assert not (tmp_path / "run.csv").exists()
