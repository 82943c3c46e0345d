"""How a run starts: from which parameters, after which checks, and what is refused before anything is written."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import Counter, Picture, Regression, Sized, StopAt, bits, make_trainer

from trainer.callbacks import Callback
from trainer.data import FirstBatches
from trainer.errors import ConfigError, DataError
from trainer.trainer import Trainer


class Warm(Regression):
    """Starts from given parameters and records what it is shown."""

    def __init__(self, params=None):
        super().__init__()
        self.params, self.started, self.seen = params, [], []

    def check_batch(self, batch):
        self.seen.append(batch)

    def warm_start(self, params):
        self.started.append(params)
        return params if self.params is None else self.params

    def init_extra(self, params):
        return {**super().init_extra(params), "target": params}


def test_a_new_run_starts_from_the_parameters_of_warm_start(tmp_path):
    params = {"layer": {"w": jnp.full((3, 3), 2.0), "b": {0: np.full(3, 5, np.float32)}}}
    task = Warm(params)
    states = []

    @dataclasses.dataclass(kw_only=True)
    class First(Callback):
        def on_fit_start(self, run):
            states.append(jax.tree.map(np.asarray, (run.state.params, run.state.ema, run.state.extra["target"])))

    make_trainer(tmp_path, task=task, steps=2, callbacks=[First()]).fit()
    assert [bits(tree) for tree in states[0]] == [bits(params)] * 3
    assert bits(task.started) != bits(params)
    assert not any(leaf.is_deleted() for leaf in (params["layer"]["w"], *jax.tree.leaves(task.started)))


def test_warm_start_and_the_optimizer_see_the_same_parameters(tmp_path):
    params = {"layer": {"w": np.full((3, 3), 2, np.float32), "b": {0: np.zeros(3, np.float32)}}}
    anchored = optax.GradientTransformation(lambda p: p, lambda updates, state, _: (updates, state))
    program = make_trainer(tmp_path, task=Warm(params), optimizer=anchored).program
    assert bits(program.init(jax.random.key(0)).opt_state) == bits(params)


def test_warm_start_is_for_new_runs_and_check_batch_for_every_start(tmp_path):
    tasks = [Warm() for _ in range(4)]
    make_trainer(tmp_path, task=tasks[0], callbacks=[StopAt(step=3)]).fit()
    make_trainer(tmp_path, task=tasks[1], steps=5).fit()
    make_trainer(tmp_path, task=tasks[2], steps=5).evaluate()
    make_trainer(tmp_path / "new", task=tasks[3]).dry_run()
    assert [len(task.started) for task in tasks] == [1, 0, 0, 0]
    assert [len(task.seen) for task in tasks] == [2, 2, 1, 2]  # of training and of held-out data
    first = next(Counter().iterator(seed=3))
    for task in tasks[:2]:
        assert type(task.seen[0]["x"]) is np.ndarray
        np.testing.assert_array_equal(task.seen[0]["x"], first["x"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"w": np.zeros((3, 4), "f4")}, r"layer/w: given float32\[3, 4\], expected float32\[3, 3\]"),
        ({"w": np.zeros((3, 3), "f8")}, r"layer/w: given float64\[3, 3\], expected float32\[3, 3\]"),
        ({"b": {}}, r"layer/b/0: given \(absent\), expected float32\[3\]"),
        ({"b": [np.zeros(3, "f4")]}, r"given PyTreeDef.*, expected PyTreeDef"),
    ],
)
def test_warm_start_with_other_parameters_is_refused_by_path(tmp_path, params, message):
    whole = {"w": np.zeros((3, 3), "f4"), "b": {0: np.zeros(3, "f4")}}
    with pytest.raises(ConfigError, match=f"Warm.warm_start must keep(.|\n)*{message}"):
        make_trainer(tmp_path, task=Warm({"layer": whole | params})).fit()
    assert list(tmp_path.iterdir()) == []


def test_a_task_may_refuse_data_before_anything_is_written(tmp_path):
    class Positive(Regression):
        def check_batch(self, batch):
            if batch["x"].min() < 0:
                raise DataError("x must not be negative")

    with pytest.raises(DataError, match="must not be negative"):
        make_trainer(tmp_path, task=Positive()).fit()
    assert list(tmp_path.iterdir()) == []


def test_evaluators_are_shown_held_out_shapes_before_anything_is_written(tmp_path):
    seen = []

    class Choosy(Picture):
        def check(self, example):
            seen.append(example)
            if example is None or example["x"].shape[0] < 9:
                raise ConfigError("held-out batches need 9 rows")

    def trainer(eval_data):
        task = Regression()
        task.evaluators = lambda: {"own": Choosy()}
        return make_trainer(tmp_path, task=task, eval_data=eval_data, evaluators={}, steps=1)

    for eval_data in (None, Counter(batch=8)):
        for action in (Trainer.check, Trainer.fit):
            with pytest.raises(ConfigError, match="need 9 rows"):
                action(trainer(eval_data))
    assert list(tmp_path.iterdir()) == []
    assert seen[0] is None
    assert (seen[-1]["x"].shape, seen[-1]["x"].dtype) == ((8, 3), np.float32)
    trainer(Counter(batch=9)).fit()
    with pytest.raises(ConfigError, match="need 9 rows"):  # an evaluation may be on other data
        trainer(Counter(batch=8)).evaluate()


@pytest.mark.parametrize("action", [Trainer.check, Trainer.dry_run, Trainer.fit])
def test_batches_that_cannot_be_computed_in_parts_are_refused_before_anything_is_written(tmp_path, action):
    sources = (Counter(batch=9), Sized(8, 9), FirstBatches(Sized(8, 9), 3, repeat=True))
    for data in sources:  # a batch that comes later is known where the source tells
        with pytest.raises(ConfigError, match=r"training data has batches of 9 rows, .* accumulate = 2 parts.* of 2\."):
            action(make_trainer(tmp_path, data=data, accumulate=2))
    assert list(tmp_path.iterdir()) == []


def test_held_out_batches_need_not_be_computed_in_parts(tmp_path):
    assert make_trainer(tmp_path, data=Counter(), eval_data=Sized(9, batch=9), accumulate=2, steps=2).fit().step == 2


class Drawn(Regression):
    """Draws its parameters, and computes what nothing needs, as a module does that is initialised by a call."""

    def __init__(self):
        super().__init__()
        self.called = []

    def init_params(self, rng, batch):
        first, second = jax.random.split(rng)
        w = jax.random.truncated_normal(first, -2.0, 2.0, (3, 3)) * jnp.sqrt(1 / 3)
        jax.pure_callback(
            lambda x: self.called.append(1) or x, jax.ShapeDtypeStruct((8, 3), jnp.float32), batch["x"] @ w
        )
        return {"layer": {"w": w, "b": {0: 0.1 * jax.random.normal(second, (3,))}}}


def test_parameters_are_those_of_a_compiled_init_params_and_nothing_else_is_computed(tmp_path):
    task = Drawn()
    trainer = make_trainer(tmp_path, task=task)
    params = trainer.program.init(jax.random.key(3)).params
    assert task.called == []
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), trainer.program.example)
    compiled = jax.jit(task.init_params)(jax.random.split(jax.random.key(3))[0], batch)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), params, compiled)
    leaf, wanted = params["layer"]["w"], trainer.program.state.params["layer"]["w"]
    assert (leaf.sharding, leaf.committed) == (wanted.sharding, True)
