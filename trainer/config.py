"""The config of a run: its fields, and the files it is read from."""

import ast
import importlib.util
import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from trainer.arguments import kind_of
from trainer.config_json import from_json
from trainer.errors import ConfigError, near_matches

# Every field a run has: (default, what it means). A group of fields is a dict of the same form; a plain `{}` default
# is a group whose fields belong to a plugin.
_OPTIMIZER: Mapping[str, tuple[Any, str]] = {
    "name": ("adam", "adam, adamw, muon, sgd or module:function"),
    "learning_rate": (3e-4, "the highest rate of the schedule"),
    "schedule": ("constant", "constant, cosine, linear or wsd (warm-up, stable, decay)"),
    "warmup_steps": (0, "steps of linear warm-up"),
    "decay_steps": (0, "steps of decay; 0: all after the warm-up (cosine, linear) or the last fifth of the run (wsd)"),
    "final_scale": (0.0, "last learning rate ÷ learning_rate, where the schedule decays"),
    "clip_norm": (0.0, "largest global norm of a gradient; 0: no clipping"),
    "weight_decay": (0.0, "decoupled weight decay of matrices (adamw, muon)"),
    "b1": (0.9, "decay of Adam's first moment"),
    "b2": (0.999, "decay of Adam's second moment"),
    "eps": (1e-8, "Adam's ε"),
    "muon_exclude": ((), "regular expressions of parameter paths that muon leaves to Adam, such as ('embed', 'head')"),
    "options": ({}, "further keyword arguments of the optimiser"),
}
SCHEMA: Mapping[str, tuple[Any, str]] = {
    "name": ("", "the run's name; its folder is ROOT/NAME unless --workdir is given"),
    "root": ("logs", "the folder of all runs"),
    "seed": (0, "seed of parameters, noise and data order"),
    "steps": (0, "updates of the whole run"),
    "log_every": (50, "steps between two lines of metrics"),
    "eval_every": (1000, "steps between two evaluations; 0: only after the last step"),
    "checkpoint_every": (1000, "steps between two checkpoints; 0: only after the last step"),
    "keep_checkpoints": (3, "checkpoints to keep"),
    "keep_every": (0, "keep the checkpoints of every so many steps for good; 0: none"),
    "keep_best": (0, "keep so many of the best checkpoints by best_metric, each saved when it is evaluated; 0: none"),
    "best_metric": ("", "figure of an evaluation that checkpoints are compared by, such as eval/loss"),
    "best_mode": ("min", "min or max: which best_metric is best"),
    "on_save_error": ("stop", "stop or continue, when a checkpoint or a report cannot be written"),
    "eval_batches": (8, "held-out batches of the eval/… figures"),
    "limit_eval_batches": (0, "held-out batches that any evaluation may use; 0: as many as it asks for"),
    "limit_train_batches": (0, "train on the first so many batches only, over and over; 0: on all"),
    "overfit_batches": (0, "train and evaluate on the first so many training batches, over and over; 0: off"),
    "sanity_eval": (0, "held-out batches to try all evaluations on before the first step; 0: none"),
    "ema_decay": (0.0, "decay of the moving average of the parameters; 0: none"),
    "accumulate": (1, "equal parts that a batch is computed in, one after the other, to save memory"),
    "precision": ("float32", "float32 or bfloat16: of activations and products; parameters stay float32"),
    "deterministic": (False, "the same bits at every run on GPUs too, where that costs speed; CPUs always are"),
    "optimizer": (_OPTIMIZER, "the optimiser"),
    "task": ({}, "target and keyword arguments of the task"),
    "data": ({}, "target and keyword arguments of the training data"),
    "eval_data": ({}, "target and keyword arguments of the held-out data; empty: no evaluation on data"),
    "evaluators": ({}, "evaluators beside the task's own: NAME: {target, …}"),
    "callbacks": (
        {
            name: {"target": name}
            for name in ("progress", "summary", "learning_rate_monitor", "non_finite_guard", "profiler", "report")
        },
        "NAME: {target, …}; an entry set to none is left out",
    ),
    "writers": (
        {name: {"target": name} for name in ("console", "jsonl", "tensorboard", "media")},
        "NAME: {target, …}; an entry set to none is left out",
    ),
    "upstream": ({}, "finished runs to build on: NAME: {run: FOLDER, config: configs/FILE.py:PRESET}"),
    "upstream_autotrain": (True, "train an upstream run that is missing or unfinished"),
    "mesh_shape": ((), "devices on the axes data and fsdp, such as (2, 4); empty: all on data"),
    "sharding_rules": ((), "ordered ((REGEX, (AXIS, …)), …) over parameter paths, such as (('mlp', (None, 'fsdp')),)"),
    "quick_compilation": (False, "compile with few of XLA's optimisations: for runs of a few steps"),
    "compilation_cache": ("~/.cache/reverie/xla", "folder of compiled programs, for faster starts; empty: off"),
}
# Groups to which an override may add fields, and those whose entries (NAME: {…}) may be left out.
ENTRIES = ("evaluators", "callbacks", "writers", "upstream")
OPEN = (*ENTRIES, "optimizer.options", "data.keys", "eval_data.keys")
_UPSTREAM_KEYS = ("run", "config")


def base_config() -> ConfigDict:
    """A config with every field at its default; a config file starts from it.

    ::

      from trainer.config import base_config

      PRESETS = ("cpu", "smoke")


      def get_config(preset: str) -> ConfigDict:
          config = base_config()
          config.name = f"tokenizer-{preset}"
          config.steps = 2_000 if preset == "cpu" else 2
          config.task = {"target": "my_task:MyTask", "width": 128}
          config.data = {"target": "tfds", "name": "my_data", "split": "train", "batch_size": 8, "length": 16}
          return config
    """
    return ConfigDict(_defaults(SCHEMA), convert_dict=True)


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, (default, _) in schema.items():
        if default is _OPTIMIZER:
            out[key] = _defaults(_OPTIMIZER)
        elif isinstance(default, Mapping):
            out[key] = {k: dict(v) for k, v in default.items()}
        else:
            out[key] = default
    return out


def roots() -> tuple[Path, ...]:
    """Folders in which a relative config path is looked up: the current one, then the one that holds `trainer`."""
    return tuple(dict.fromkeys((Path.cwd(), Path(__file__).resolve().parent.parent)))


def config_files() -> list[str]:
    """The config files that are there, as `configs/NAME.py`."""
    return sorted(config_paths())


def config_paths() -> dict[str, Path]:
    """Where each of the config files is that are there."""
    paths = [path for root in reversed(roots()) for path in (root / "configs").glob("*.py") if _is_config(path)]
    return {f"configs/{path.name}": path for path in paths}


def load_config(spec: str) -> ConfigDict:
    """Loads `PATH.py[:PRESET]`, or the `config.json` of a run, and checks its fields.

    Args:
      spec: a Python file with `get_config(preset)`, `PRESETS` and optionally `DEFAULT_PRESET`, relative to the current
        folder or to the one that holds the `trainer` package; or a JSON file.

    Raises:
      ConfigError: no such file or preset, an error in the file, an unknown field.
    """
    path, preset = _find(spec)
    if path.suffix == ".json":
        if preset is not None:
            raise ConfigError(f"{spec}: a stored config has no presets; give it without :{preset}.")
        return read_json(path)
    module = _execute(path, spec)
    presets: tuple[str, ...] = tuple(getattr(module, "PRESETS", ()))
    get_config = getattr(module, "get_config", None)
    if not callable(get_config) or not presets:
        raise ConfigError(f"{path} is no config: it must define PRESETS, a tuple of names, and get_config(preset).")
    if preset is None:
        preset = getattr(module, "DEFAULT_PRESET", presets[0])
    if preset not in presets:
        raise ConfigError(f"{spec} has no preset {preset!r}. {near_matches(preset, presets, 'Presets')}")
    try:
        config = get_config(preset)
    except Exception as e:
        raise ConfigError(f"{_where(path, e)}: {type(e).__name__}: {_one_line(e)}") from e
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config of {path} returned {type(config).__name__}, not a ConfigDict.")
    return complete(config, spec)


def _find(spec: str) -> tuple[Path, str | None]:
    name, preset = spec, None
    if not spec.endswith((".py", ".json")) and ":" in spec:
        name, preset = spec.rsplit(":", 1)
    if not name.endswith((".py", ".json")):
        raise ConfigError(
            f"{spec!r} is no config: expected PATH.py[:PRESET] or a run's config.json. "
            f"{near_matches(name, config_files(), 'Configs')}"
        )
    path = Path(name).expanduser()
    folders = roots() if path.suffix == ".py" else (Path.cwd(),)  # a run's config.json names the run's folder, too
    for candidate in (path,) if path.is_absolute() else tuple(folder / path for folder in folders):
        if candidate.is_file():
            return candidate, preset
    looked = " and ".join(str(folder) for folder in folders)
    raise ConfigError(f"no config {name!r} in {looked}. {near_matches(name, config_files(), 'Configs')}")


def _execute(path: Path, spec: str) -> Any:
    module_spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"{spec} is no Python file.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as e:
        raise ConfigError(f"{e.filename}, line {e.lineno}: SyntaxError: {e.msg}") from e
    except Exception as e:
        raise ConfigError(f"{_where(path, e)}: {type(e).__name__}: {_one_line(e)}") from e
    return module


def _where(path: Path, error: Exception) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_config(path: Path) -> bool:
    """Whether a file defines `get_config`, found without executing it."""
    try:
        body = ast.parse(path.read_text()).body
    except (SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.FunctionDef) and node.name == "get_config" for node in body)


def read_json(path: Path) -> ConfigDict:
    """The config in a run's `config.json`, or in what `--mode=print_config` printed."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}.") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path} is not JSON ({_one_line(e)}). Restore it or start a run under another name.") from e
    version = data.get("version") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(data.get("config"), dict):
        data = data["config"]
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no config. Restore it or start a run under another name.")
    try:
        return complete(from_json(data), str(path))
    except ConfigError as e:
        wrote = f"It was written by version {version}. " if version else ""
        raise ConfigError(
            f"{e} {wrote}If the field is gone from the code, remove it from the file, or use the version that wrote it."
        ) from e
    except (TypeError, ValueError, AttributeError, RecursionError) as e:
        raise ConfigError(
            f"{path} holds no config ({_one_line(e)}). Restore it or start a run under another name."
        ) from e


def complete(config: ConfigDict, source: str) -> ConfigDict:
    """Fills in fields that are missing and refuses fields that a run does not have.

    Args:
      config: what a file gave.
      source: where it came from, for messages.
    """
    full = base_config()
    for key in config:
        if key not in full:
            raise ConfigError(f"{source} sets {key!r}, which is no field. {near_matches(key, full, 'Fields')}")
        value = config[key]
        if isinstance(full[key], ConfigDict) != isinstance(value, ConfigDict):
            raise ConfigError(f"{source} sets {key} = {value!r}; expected {kind_of(full[key])}.")
        if key == "optimizer":
            for name, setting in value.items():
                if name not in full.optimizer:
                    raise ConfigError(
                        f"{source} sets 'optimizer.{name}', which is no field. "
                        f"{near_matches(name, full.optimizer, 'Fields of optimizer')}"
                    )
                _assign(full.optimizer, name, setting, f"optimizer.{name}", source)
        elif isinstance(value, ConfigDict):
            full[key] = value
        else:
            _assign(full, key, value, key, source)
    for group in ENTRIES:
        for name in [name for name, entry in full[group].items() if entry is None]:
            del full[group][name]
        for name, entry in full[group].items():
            known = _UPSTREAM_KEYS if group == "upstream" else ("target",)
            if not isinstance(entry, ConfigDict) or known[0] not in entry:
                raise ConfigError(f"{source}: {group}.{name} must be a group with the field {known[0]!r}.")
            unknown = [k for k in entry if group == "upstream" and k not in known]
            if unknown:
                raise ConfigError(
                    f"{source} sets 'upstream.{name}.{unknown[0]}', which is no field. "
                    f"{near_matches(unknown[0], known, 'Fields')}"
                )
    return full


def _assign(group: ConfigDict, name: str, value: Any, key: str, source: str) -> None:
    try:
        group[name] = value
    except TypeError:
        raise ConfigError(f"{source} sets {key} = {value!r}; expected {kind_of(group[name])}.") from None


def check_complete(config: ConfigDict) -> None:
    """Raises ConfigError where a run could not start: no name, steps, task or data."""
    if not config.name:
        raise ConfigError("the config has no run name: set `config.name`, or give --config.name=NAME.")
    if config.steps <= 0:
        raise ConfigError(f"steps = {config.steps}: give the number of updates, as in --config.steps=1000.")
    for group in ("task", "data"):
        if not config[group].get("target"):
            raise ConfigError(f"the config has no {group}.target: give a plugin's name or module:Class.")
    for key in ("log_every", "keep_checkpoints", "eval_batches"):
        if config[key] < 1:
            raise ConfigError(f"{key} = {config[key]}: expected 1 or more.")
    for key in ("eval_every", "checkpoint_every"):
        if config[key] < 0:
            raise ConfigError(f"{key} = {config[key]}: expected 0 or more.")
    for key in ("keep_every", "keep_best", "limit_eval_batches", "limit_train_batches", "overfit_batches",
                "sanity_eval"):  # fmt: skip
        if config[key] < 0:
            raise ConfigError(f"{key} = {config[key]}: expected 0 (off) or more.")
    if config.accumulate < 1:
        raise ConfigError(f"accumulate = {config.accumulate}: expected 1 or more.")
    for key, choices in (("best_mode", ("min", "max")), ("on_save_error", ("stop", "continue")),
                         ("precision", ("float32", "bfloat16"))):  # fmt: skip
        if config[key] not in choices:
            raise ConfigError(f"{key} = {config[key]!r}. {near_matches(config[key], choices, 'Choices')}")
    if config.keep_best and not config.best_metric:
        raise ConfigError("keep_best needs best_metric, a figure of an evaluation, such as eval/loss.")
    if config.overfit_batches and config.limit_train_batches:
        raise ConfigError("overfit_batches and limit_train_batches say the same in two ways; leave one at 0.")
    for rule in config.sharding_rules:
        if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str) and isinstance(rule[1], tuple)):
            raise ConfigError(
                f"sharding_rules has {rule!r}; expected (REGEX, (AXIS, …)), as in ('mlp', (None, 'fsdp'))."
            )
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"ema_decay = {config.ema_decay}: expected a number in [0, 1); 0 is off.")
