import json
import shutil
from pathlib import Path

import pytest

from trainer import cli
from trainer.checkpoints import read_params

HERE = Path(__file__).parent
EMA = "--config.ema_decay=0.5"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(HERE / "toy_config.py", tmp_path)
    return tmp_path


@pytest.fixture
def main(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def packed(main):
    """`second` on `first`, with averages and the optimiser that keeps most; packed into `small`, the originals gone."""
    assert main("--config=toy_config.py:second", EMA, "--config.optimizer.name=adam")[0] == 0
    figures = [Path(f"logs/{name}/metrics.jsonl").read_text() for name in ("first", "second")]
    code, out, error = main("--config=logs/second/config.json", "--mode=pack", "--to=small")
    assert (code, out) == (0, "small/first\nsmall/second\n"), error
    shutil.move("logs", "gone")
    return figures


def test_a_packed_run_gives_the_figures_of_the_whole_one(main, packed):
    for name, figures in zip(("first", "second"), packed, strict=True):
        assert Path(f"small/{name}/metrics.jsonl").read_text() == figures
        loss = json.loads(figures.splitlines()[-1])["eval/loss"]
        run = f"--config=small/{name}/config.json"
        code, _, printed = main(run, "--mode=eval", "--config.writers.console.target=console")
        assert code == 0, printed
        assert f"eval/loss {loss:.5g}" in printed
    whole, small = read_params(Path("gone/second")), read_params(Path("small/second"))
    assert whole.params["w"].tobytes() == small.params["w"].tobytes()
    checkpoint = Path("small/second/checkpoints/4")
    assert sorted(p.name for p in checkpoint.iterdir()) == ["manifest.json", "meta.json", "params", "state"]
    assert "opt_state" not in (checkpoint / "meta.json").read_text()


def test_a_packed_run_is_built_on_and_not_trained_further(main, packed):
    arguments = ["--config=toy_config.py:second", "--config.name=third", "--config.upstream.base.run=small/first"]
    code, _, error = main(*arguments, "--config.upstream_autotrain=false")
    assert code == 0, error
    code, _, error = main("--config=small/second/config.json")
    assert code == 1
    assert "small/second/checkpoints/4 was packed: it can be evaluated and built on, but not trained further." in error


def test_nothing_is_packed_over_what_is_there_or_from_what_is_not_finished(main, packed):
    shutil.move("gone", "logs")
    before = {p: p.read_bytes() for p in Path("small").rglob("*") if p.is_file()}
    code, _, error = main("--config=logs/second/config.json", "--mode=pack", "--to=small")
    assert (code, error.count("\n")) == (1, 1)
    assert "small/first is there already" in error
    assert {p: p.read_bytes() for p in Path("small").rglob("*") if p.is_file()} == before
    shutil.rmtree("logs/second/checkpoints")
    code, _, error = main("--config=logs/second/config.json", "--mode=pack", "--to=other")
    assert code == 1
    assert "logs/second is not finished" in error
    assert not Path("other").exists()
    code, _, error = main("--config=logs/second/config.json", "--mode=pack")
    assert (code, "--to=results" in error) == (2, True)
