"""The command line: `python -m trainer --config=configs/NAME.py[:PRESET] …`."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import run_folder
from trainer.config import SCHEMA, check_complete, complete, config_files, load_config
from trainer.config_json import to_json
from trainer.errors import UserError, near_matches, with_places
from trainer.overrides import override_all
from trainer.stopping import EXIT_RESUMABLE, StopFlag, StopReason, stop_on_signals

MODES = {
    "fit": "train, or continue training",
    "eval": "evaluate a checkpoint, see --checkpoint",
    "dry_run": "compile the step and report parameters, FLOPs and memory, without training",
    "print_config": "print the config with all overrides as JSON",
    "list": "print every plugin and config there is",
    "csv": "print all metrics of a run as a table, one row per step",
    "pack": "copy a finished run and those it builds on, small, into the folder that --to names",
}
_FLAGS = (
    "config", "workdir", "mode", "checkpoint", "to", "fast_dev_run", "simulated_devices", "distributed", "debug",
    "help",
)  # fmt: skip
_OF_MODES = {"fast_dev_run": "fit", "checkpoint": "eval", "simulated_devices": "dry_run", "to": "pack"}
_USAGE = 2
_INTERRUPTED = 130

_HELP = """\
Trains, evaluates and inspects a run that a config describes.

usage: python -m trainer --config=CONFIG [--config.KEY=VALUE …] [--workdir=DIR] [--mode=MODE] [FLAG …]

  --config=CONFIG       configs/NAME.py, configs/NAME.py:PRESET or RUN/config.json
  --config.KEY=VALUE    changes a field, as in --config.optimizer.learning_rate=1e-3
  --workdir=DIR         the run folder (default: ROOT/NAME of the config)
  --mode=MODE           {modes}
  --checkpoint=WHICH    what --mode=eval evaluates: last, best (see best_metric) or a step
  --to=DIR              where --mode=pack puts what evaluations and later phases need: each run as DIR/NAME
  --fast_dev_run[=N]    try everything out, N (1) steps of each phase, and keep nothing
  --simulated_devices=N compile --mode=dry_run for so many devices, which need not be there
  --distributed=HOW     one of several processes: auto (in a cluster that JAX knows), or HOST:PORT,COUNT,INDEX
  --debug               show tracebacks

examples:
  python -m trainer --config={example}
  python -m trainer --config={example} --config.seed=1 --config.name=second
  python -m trainer --config={example} --mode=print_config
  python -m trainer --config={example} --config.callbacks.t.target=time_limit --config.callbacks.t.seconds=60
  python -m trainer --config=logs/NAME/config.json --mode=eval

A run is a folder; the same command continues it. Exit codes: 0 done, 1 error, 2 wrong usage, 75 stopped early and to
be started again, 130 interrupted with nothing saved.

configs: {configs}

fields:
{fields}"""


class UsageError(UserError):
    """The command line itself is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _main(arguments)
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as e:
        if debug or not (isinstance(e, UserError) or getattr(e, "user_error", False)):
            raise
        print(f"error: {with_places(e)}", file=sys.stderr)
        return _USAGE if isinstance(e, UsageError) else 1


def _main(arguments: Sequence[str]) -> int:
    flags, overrides = _parse(arguments)
    if "help" in flags:
        print(_help())
        return 0
    mode = flags.get("mode", "fit")
    if mode not in MODES:
        raise UsageError(f"no mode {mode!r}. {near_matches(mode, MODES, 'Modes')}")
    for flag, only in _OF_MODES.items():
        if flag in flags and mode != only:
            raise UsageError(f"--{flag} is for --mode={only}, not for --mode={mode}: leave one of them out.")
    if mode == "list":
        from trainer.listing import listing

        print(listing() + "\n\nOr give module:Class as a target.")
        return 0
    listening: contextlib.AbstractContextManager[StopFlag] = (
        stop_on_signals() if mode == "fit" else contextlib.nullcontext(StopFlag())
    )
    with listening as asked:
        return _run(mode, flags, overrides, asked)


def _run(mode: str, flags: Mapping[str, str], overrides: Sequence[tuple[str, str]], flag: StopFlag) -> int:
    """Does what the flags say with a config; `flag` is where `fit` is asked to stop."""
    if not flags.get("config"):
        raise UsageError(
            f"give a config, as in --config=configs/NAME.py:PRESET. {near_matches('', config_files(), 'Configs')} "
            "--help says more."
        )
    source = flags["config"]
    config = load_config(source)
    workdir = flags.get("workdir")
    if (
        workdir is None
        and os.path.basename(source) == run_folder.CONFIG
        and not {"name", "root"} & dict(overrides).keys()
    ):
        workdir = os.path.dirname(source) or "."
    override_all(config, overrides)
    config = complete(config, "the command line")
    if mode == "print_config":
        print(json.dumps(to_json(config), indent=2, ensure_ascii=False))
        return 0
    check_complete(config)
    if mode == "csv":
        from trainer.export import to_csv

        to_csv(run_folder.locate(config, workdir), sys.stdout)
        return 0
    _quiet()
    if mode == "pack":
        from trainer.packing import pack

        if "to" not in flags:
            raise UsageError("--mode=pack needs a folder for the packed runs, as in --to=results.")
        for place in pack(config, run_folder.locate(config, workdir), Path(flags["to"])):
            print(place)
        return 0
    from trainer import experiment
    from trainer.xla import simulate_devices

    interrupted = _INTERRUPTED if "fast_dev_run" in flags else EXIT_RESUMABLE
    if "distributed" in flags and (stopped := _join(flags["distributed"], flag)):
        print(f"stopped before the processes joined: {stopped.reason}; start it again", file=sys.stderr)
        return interrupted
    tries, devices = _number(flags, "fast_dev_run", "steps"), _number(flags, "simulated_devices", "devices")
    if devices:
        simulate_devices(devices)
    result = experiment.run(
        config, workdir=workdir, mode=mode, checkpoint=flags.get("checkpoint", "last"), fast_dev_run=tries, flag=flag
    )
    if mode == "dry_run":
        print(json.dumps(result, indent=2, ensure_ascii=False))
    if mode == "fit" and result.stopped is not None and result.stopped.resumable:
        return interrupted
    return 0


def _parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Splits the command line into flags and (key, text) overrides; values follow `=` or stand alone after the flag."""
    flags: dict[str, str] = {}
    overrides: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help", "--debug"):
            flags["help" if word != "--debug" else "debug"] = "true"
            continue
        if not word.startswith("--"):
            raise UsageError(f"unexpected argument {word!r}: every setting is a flag, as in --config=configs/NAME.py.")
        name, equals, value = word[2:].partition("=")
        if not name.startswith("config.") and name not in _FLAGS:
            known = [f"--{flag}" for flag in (*_FLAGS, "config.KEY")]
            hint = f" A field of the config is set by --config.{name}=…" if name.split(".")[0] in SCHEMA else ""
            raise UsageError(f"unknown flag --{name}. {near_matches(f'--{name}', known, 'Flags')}{hint}")
        if name == "fast_dev_run" and not equals:
            value = "1"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise UsageError(f"--{name} needs a value, as in --{name}=VALUE.")
            value = rest.pop(0)
        if name.startswith("config."):
            key = name.removeprefix("config.")
            if (before := dict(overrides).get(key, value)) != value:
                raise UsageError(f"--{name} is given twice, as {before} and as {value}: leave one of them out.")
            overrides.append((key, value))
        elif name in flags:
            raise UsageError(f"--{name} is given twice.")
        else:
            flags[name] = value
    return flags, overrides


def _join(how: str, flag: StopFlag) -> StopReason | None:
    """Joins the processes that --distributed names, or returns why it gave up waiting for them."""
    from trainer import hosts

    if how == "auto":
        return hosts.initialize(flag=flag)
    coordinator, *numbers = how.split(",")
    if len(numbers) != 2 or ":" not in coordinator or not all(number.isdecimal() for number in numbers):
        raise UsageError(f"--distributed={how}: expected auto, or HOST:PORT,COUNT,INDEX as in 10.0.0.1:9000,2,0.")
    count, index = (int(number) for number in numbers)
    if problem := hosts.address_problem(coordinator, count, index):
        raise UsageError(f"--distributed={how}: {problem}.")
    return hosts.initialize(coordinator, count, index, flag=flag)


def _number(flags: Mapping[str, str], flag: str, of: str) -> int:
    """What a flag counts, 0 where it was not given."""
    text = flags.get(flag, "0")
    if flag in flags and (not text.isdecimal() or int(text) < 1):
        raise UsageError(f"--{flag}={text}: expected a number of {of}, 1 or more.")
    return int(text)


def _help() -> str:
    configs = config_files()
    modes = [f"{name}: {what}" for name, what in MODES.items()]
    return _HELP.format(
        modes=("\n" + " " * 24).join(modes),
        example=configs[0] if configs else "configs/NAME.py",
        configs=", ".join(configs) or "(none found)",
        fields="\n".join(_fields(SCHEMA, "")),
    )


def _fields(schema: Mapping[str, tuple[Any, str]], prefix: str) -> list[str]:
    lines = []
    for name, (default, doc) in schema.items():
        key = prefix + name
        nested = isinstance(default, Mapping) and any(isinstance(v, tuple) for v in default.values())
        value = "" if isinstance(default, Mapping) else f" [{json.dumps(default)}]"
        lines.append(f"  {key:<28}{doc}{value}")
        if nested:
            lines += _fields(default, f"{key}.")
    return lines


def _quiet() -> None:
    """Keeps libraries from logging at start-up what no user can act on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for name in ("absl", "jax", "orbax", "grain"):
        logging.getLogger(name).setLevel(logging.WARNING)
