import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import Counter, Regression, make_trainer

from trainer.errors import ConfigError
from trainer.state import TrainState
from trainer.task import Evaluation, Evaluator, LossOutput, Task
from trainer.update import Update, cast

ROWS = {"x": np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32), "n": np.arange(12), "scale": np.ones(())}


class Quiet(Regression):
    """Without noise, so that the parts of a batch add up to the batch."""

    def loss(self, params, frozen, batch, **others):
        out = super().loss(params, frozen, {**batch, "x": batch["x"] * batch["scale"]}, **others)
        noise = 0.1 * jax.random.normal(others["rng"], (batch["x"].shape[0], 1))
        error = batch["x"] @ params["layer"]["w"] + params["layer"]["b"][0] - batch["x"].sum(-1, keepdims=True)
        del noise
        return LossOutput(jnp.mean(error**2), {"largest": batch["n"].max() * 1.0}, out.extra)


def stepped(update, task=None, batch=ROWS):
    task, zero = task or Quiet(), jnp.int32(0)
    params = task.init_params(jax.random.key(0), batch)
    state = TrainState(zero, params, update.tx.init(params), None, task.init_extra(params), jax.random.key(1), zero)
    return jax.jit(lambda state, batch: task.train_step(state, {}, batch, update))(state, batch)


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_a_batch_in_parts_gives_the_same_update(parts):
    tx = optax.adam(1e-2)
    (whole, one), (dealt, many) = stepped(Update(tx=tx)), stepped(Update(tx=tx, accumulate=parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole.params, dealt.params)
    np.testing.assert_allclose(one["loss"], many["loss"], rtol=1e-5)
    np.testing.assert_allclose(one["grad_norm"], many["grad_norm"], rtol=1e-4)
    assert (int(whole.step), int(dealt.step)) == (1, 1)  # one clock: a batch is a step
    assert (int(whole.extra["seen"]), int(dealt.extra["seen"])) == (1, parts)
    # Part i has the rows i, i + k, …; the mean of their largest numbers tells.
    assert float(many["largest"]) == np.mean([np.arange(i, 12, parts).max() for i in range(parts)])


def test_parts_have_keys_of_their_own():
    class Draws(Regression):
        def loss(self, params, frozen, batch, *, rng, **others):
            out = super().loss(params, frozen, batch, rng=rng, **others)
            return out._replace(metrics={"draw": jax.random.uniform(rng), "square": jax.random.uniform(rng) ** 2})

    _, metrics = stepped(Update(tx=optax.sgd(0.1), accumulate=4), Draws())
    assert float(metrics["square"]) - float(metrics["draw"]) ** 2 > 1e-3  # the variance of the draws


@pytest.mark.parametrize(("parts", "batch"), [(5, ROWS), (2, {"n": np.zeros(())})])
def test_rows_that_cannot_be_dealt_out_are_refused(parts, batch):
    with pytest.raises(ConfigError, match=f"cannot be computed in accumulate = {parts} equal parts"):
        Update(tx=optax.sgd(0.1), accumulate=parts).gradients(None, {}, batch, None, None)


class Typed(Task):
    """Reports the types it computes in."""

    def init_params(self, rng, batch):
        return {"w": jnp.full((3, 3), 0.3), "count": jnp.int32(2)}

    def frozen(self):
        return {"teacher": {"w": np.full((3, 3), 0.1, np.float32), "key": jax.random.key(0)}}

    def loss(self, params, frozen, batch, *, rng, step, extra, train):
        assert params["count"].dtype == jnp.int32
        half = params["w"].dtype == frozen["teacher"]["w"].dtype == jnp.bfloat16
        out = batch["x"].astype(params["w"].dtype) @ (params["w"] - frozen["teacher"]["w"])
        assert out.dtype == params["w"].dtype
        return LossOutput(jnp.mean(out.astype(jnp.float32) ** 2), {"half": jnp.float32(half)}, extra)


class Weights(Typed):
    """The same without whole numbers, which have no gradient."""

    def init_params(self, rng, batch):
        return {"w": jnp.full((3, 3), 0.3)}

    def loss(self, params, *args, **others):
        return super().loss({**params, "count": jnp.int32(2)}, *args, **others)


def test_half_precision_computes_in_halves_and_keeps_whole_parameters(tmp_path):
    results = {}
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer(
            tmp_path / precision, task=Weights(), precision=precision, evaluators={}, steps=20, data=Counter()
        )
        results[precision] = trainer.fit().metrics
        state = trainer.program.state
        assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.ema))} == {jnp.dtype("float32")}
        frozen = trainer.program.frozen["teacher"]
        assert frozen["w"].dtype == precision
        assert jax.dtypes.issubdtype(frozen["key"].dtype, jax.dtypes.prng_key)
    for name in ("train/half", "eval/half"):
        assert (results["float32"][name], results["bfloat16"][name]) == (0.0, 1.0)
    losses = [metrics["eval/loss"] for metrics in results.values()]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_cast_changes_floats_alone():
    tree = {"w": jnp.ones(2), "n": jnp.int32(1), "half": jnp.ones(2, jnp.float16), "key": jax.random.key(0)}
    assert cast(tree, "float32") is tree
    done = cast(tree, "bfloat16")
    assert (done["w"].dtype, done["n"].dtype, done["half"].dtype) == (jnp.bfloat16, jnp.int32, jnp.float16)
    assert done["key"] is not None


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="accumulate = 0: expected 1 or more"):
        Update(tx=optax.sgd(0.1), accumulate=0)
    with pytest.raises(ConfigError, match="precision = 'half': expected one of float32, bfloat16"):
        Update(tx=optax.sgd(0.1), precision="half")


def test_the_moving_average_is_one_and_its_decay_is_warmed_up():
    update = Update(tx=optax.sgd(0.1), ema_decay=0.25)
    zero, params = jnp.int32(0), {"w": jnp.float32(2.0)}
    state = TrainState(zero, params, update.tx.init(params), params, {}, jax.random.key(0), zero)
    average = weight = 2.0
    for step, grad in enumerate((1.0, -3.0, 5.0, 2.0)):
        state, _ = update.apply(state, {"w": jnp.float32(grad)}, {})
        weight -= 0.1 * grad
        decay = min(0.25, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25, 0.25
        average = decay * average + (1 - decay) * weight
        np.testing.assert_allclose(state.params["w"], weight, rtol=1e-6)
        np.testing.assert_allclose(state.ema["w"], average, rtol=1e-6)
    assert state.eval_params is state.ema


def test_a_bad_loss_or_update_is_left_out_though_the_gradient_is_finite():
    class Lost(Regression):
        def loss(self, *args, **others):
            out = super().loss(*args, **others)
            return out._replace(loss=out.loss + jnp.nan)  # a constant: no trace of it in the gradient

    assert int(stepped(Update(tx=optax.sgd(0.1)))[0].skipped) == 0
    assert int(stepped(Update(tx=optax.sgd(0.1)), Lost())[0].skipped) == 1
    assert int(stepped(Update(tx=optax.scale(jnp.inf)))[0].skipped) == 1


@pytest.mark.parametrize(("precision", "half"), [("float32", 0.0), ("bfloat16", 1.0)])
def test_evaluators_compute_in_the_precision_of_the_run(tmp_path, precision, half):
    class Kinds(Evaluator):
        def evaluate(self, *, params, frozen, **_):
            return Evaluation({"half": float(params["w"].dtype == frozen["teacher"]["w"].dtype == jnp.bfloat16)})

    evaluators = {"kinds": Kinds()}
    trainer = make_trainer(
        tmp_path, task=Weights(), precision=precision, steps=1, data=Counter(), evaluators=evaluators
    )
    assert trainer.fit().metrics["half"] == half


def test_running_state_that_changes_its_type_is_refused():
    class Drifts(Regression):
        def loss(self, params, frozen, batch, *, extra, **others):
            out = super().loss(params, frozen, batch, extra=extra, **others)
            return out._replace(extra={**out.extra, "seen": 0.5 * extra["seen"]})  # int32, and then float32

    with pytest.raises(ConfigError, match=r"Drifts.loss returned an extra .*float32\[\].*; expected .*int32\[\]"):
        stepped(Update(tx=optax.sgd(0.1)), Drifts())
