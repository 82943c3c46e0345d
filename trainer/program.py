"""`Program`: the compiled functions and placed arrays that a task becomes on a mesh of devices."""

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import NamedSharding

from trainer import sharding
from trainer.collectives import count_collectives
from trainer.errors import ConfigError
from trainer.flops import count_flops
from trainer.hardware import expected
from trainer.huge_pages import keep_if_small
from trainer.kinds import name_of
from trainer.metrics import StepMetrics
from trainer.optimizers import check_transformation
from trainer.state import PyTree, TrainState
from trainer.task import Batch, Task
from trainer.update import Update, cast

_MEMORY = ("argument", "output", "alias", "temp", "generated_code")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What the loop calls.

    Attributes:
      mesh: the devices.
      state: shapes, dtypes and shardings of the training state.
      example: shapes and dtypes of a batch.
      precision: see `trainer.update.Update`.
      frozen: upstream parameters on the devices, in that precision.
      init: key → state of a new run.
      step: (state, frozen, batch) → (state, metrics); the state is donated. jit compiles once per shape of batch.
      eval_step: (params, frozen, batch, key, step, extra) → metrics.
      flops_per_batch: the task's.
    """

    mesh: jax.sharding.Mesh
    precision: str
    state: TrainState
    example: Batch
    frozen: Mapping[str, PyTree]
    init: Callable[[jax.Array], TrainState]
    step: Any
    eval_step: Callable[..., StepMetrics]
    flops_per_batch: Callable[[Batch], float | None]

    @property
    def takes_numpy(self) -> bool:
        """Whether batches go to the step as they are: on one CPU, putting them there first would cost 15 × as much."""
        return _on_one_cpu(self.mesh)

    def flops(self, state: TrainState, batch: Batch) -> float:
        """FLOPs of an update on a batch: as the task tells, or the products in the traced step (traced only once)."""
        told = self.flops_per_batch(batch)
        return count_flops(self.step.trace(state, self.frozen, batch).jaxpr) if told is None else told

    def trace(self) -> None:
        """Traces an update on a batch like the example: the errors of a task show before its run leaves a trace.

        The first update takes the same trace, so that this costs nothing.
        """
        self._traced(self.example)

    def compile_ahead(self, example: Batch) -> Callable[[], None]:
        """Starts to compile the update on batches like `example`, beside whatever else a start has to do.

        On CPUs this decides, too, whether the memory of an update is kept for the next one.

        Returns:
          A function that waits until it is done. The first update then finds it compiled; where that failed, it tries
          again, and tells why.
        """
        traced = self._traced(example)

        def compile_it() -> None:
            with contextlib.suppress(Exception):
                compiled = traced.lower().compile()
                if jax.default_backend() == "cpu":
                    keep_if_small(compiled.memory_analysis().temp_size_in_bytes)

        if jax.process_count() > 1:  # all of them compile one thing after the other, in one order
            return lambda: None
        thread = threading.Thread(target=compile_it, name="compile")
        thread.start()
        return thread.join

    def _traced(self, example: Batch) -> Any:
        batch = example if self.takes_numpy else sharding.described_batch(example, self.mesh)
        return self.step.trace(self.state, self.frozen, batch)


def build(
    task: Task, optimizer: optax.GradientTransformation, example: Batch, *, mesh: jax.sharding.Mesh,
    rules: tuple[sharding.Rule, ...] = (), ema_decay: float | None = None, accumulate: int = 1,
    precision: str = "float32",
) -> Program:  # fmt: skip
    """Builds the program of a task that has been set up; nothing is compiled before it is called."""
    tx, everywhere = task.optimizer(optimizer), sharding.replicated(mesh)
    check_transformation(tx, f"{name_of(task)}.optimizer")
    gathered = everywhere if mesh.shape["fsdp"] > 1 else None
    update = Update(tx=tx, ema_decay=ema_decay, accumulate=accumulate, precision=precision, gathered=gathered)

    def init_params(key: jax.Array) -> PyTree:
        return task.init_params(key, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example))

    def init_state(params: PyTree, rng: jax.Array) -> TrainState:
        # Copies, as the state will be donated and what `warm_start` gave may be in use elsewhere.
        params = jax.tree.map(lambda x: jnp.array(x, x.dtype), params)
        ema = None if ema_decay is None else jax.tree.map(jnp.copy, params)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, params, tx.init(params), ema, task.init_extra(params), rng, jnp.copy(zero))

    def step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, StepMetrics]:
        with sharding.traced_for(mesh):
            state, metrics = task.train_step(state, frozen, batch, update)
        return state, StepMetrics.pack(metrics)

    def begun(key: jax.Array) -> TrainState:  # jit, so that these traces are those that `init` takes
        return jax.jit(init_state)(jax.jit(init_params)(key), key)

    abstract = jax.eval_shape(begun, jax.random.key(0))
    shardings = sharding.state_sharding(mesh, rules, abstract)
    begin = jax.jit(init_state, out_shardings=shardings)
    fresh: Callable[[jax.Array], PyTree] = (
        _by_operation(init_params, shardings.params)
        if _on_one_cpu(mesh)
        else jax.jit(init_params, out_shardings=shardings.params)
    )

    def init(key: jax.Array) -> TrainState:
        params_key, run_key = jax.random.split(key)
        return begin(_warm_start(task, fresh(params_key)), run_key)

    def eval_step(params: PyTree, *args: Any) -> StepMetrics:
        with sharding.traced_for(mesh):
            return StepMetrics.pack(task.eval_step(cast(params, precision), *args))

    return Program(
        mesh=mesh,
        precision=precision,
        state=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings),
        example=example,
        frozen=_placed(dict(task.frozen()), everywhere, precision),
        init=init,
        step=jax.jit(step, donate_argnums=0, out_shardings=(shardings, everywhere)),
        eval_step=jax.jit(eval_step),
        flops_per_batch=task.flops_per_batch,
    )


def _on_one_cpu(mesh: jax.sharding.Mesh) -> bool:
    return mesh.size == 1 and jax.default_backend() == "cpu"


def _by_operation(init_params: Callable[[jax.Array], PyTree], placed: PyTree) -> Callable[[jax.Array], PyTree]:
    """`init_params`, its operations compiled one by one; those that nothing needs are left out.

    The result is the same up to rounding. Each kind of draw is then compiled once. In one program XLA compiles the draw
    of every parameter anew, which takes longer than the step that trains them.
    """
    traced = jax.jit(init_params).trace(jax.random.key(0))
    needed = [True] * len(traced.jaxpr.out_avals)
    operations, _ = dce_jaxpr(traced.jaxpr.jaxpr, needed, instantiate=True)
    evaluate = jaxpr_as_fun(ClosedJaxpr(operations, traced.jaxpr.consts))
    tree = jax.tree.structure(traced.out_info)
    return lambda key: jax.device_put(jax.tree.unflatten(tree, evaluate(key)), placed)


def _placed(frozen: PyTree, everywhere: NamedSharding, precision: str) -> PyTree:
    """Upstream parameters in their place and precision; of those that are only described, a description."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(frozen)):
        described = jax.eval_shape(lambda tree: cast(tree, precision), frozen)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), described)
    return cast(sharding.put_tree(frozen, everywhere), precision)


def _warm_start(task: Task, params: PyTree) -> PyTree:
    """What `task.warm_start` makes of `params`, placed like these.

    Raises:
      ConfigError: it is no tree of the same structure, shapes and dtypes.
    """
    given = task.warm_start(params)
    have, want = _described(given), _described(params)
    lines = [
        f"{name}: given {have.get(name, '(absent)')}, expected {want.get(name, '(absent)')}"
        for name in dict.fromkeys([*want, *have])
        if have.get(name) != want.get(name)
    ]
    if not lines:
        structures: tuple[Any, Any] = jax.tree.structure(given), jax.tree.structure(params)
        lines = [] if structures[0] == structures[1] else ["given {}, expected {}".format(*structures)]
    if lines:
        more = f"\n  … and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise ConfigError(
            f"{type(task).__name__}.warm_start must keep the structure, shapes and dtypes that init_params made:"
            + "".join(f"\n  {line}" for line in lines[:10])
            + f"{more}\nGive the model the settings of the run that the parameters come from."
        )
    return jax.tree.map(lambda new, old: new if new is old else sharding.put_tree(new, old.sharding), given, params)


def _described(params: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kinds = [(path, getattr(leaf, "dtype", type(leaf).__name__), np.shape(leaf)) for path, leaf in leaves]
    return {sharding.path_name(path): f"{dtype}{list(shape)}" for path, dtype, shape in kinds}


def measure(program: Program) -> dict[str, Any]:
    """Compiles the train step for the devices there are, which may be pretended ones, without running it.

    Returns:
      `parameters`, `state_bytes`, `batch` (shapes), `devices`, `mesh`, `compile_s`, `flops_per_step` (of all devices)
      and `flops_per_device`, `state_bytes_per_device`, `collectives` (see `trainer.collectives`), `memory_bytes` per
      device (arguments, outputs, of these aliases, temporaries, code), `memory_per_device` in all, and `expected` on
      well-known hardware (see `trainer.hardware`).
    """
    started = time.perf_counter()
    batch = sharding.described_batch(program.example, program.mesh)
    compiled = program.step.lower(program.state, program.frozen, batch).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    leaves = jax.tree_util.tree_leaves_with_path(program.example)
    sizes = {kind: getattr(memory, f"{kind}_size_in_bytes") for kind in _MEMORY}
    flops, devices, state = program.flops(program.state, program.example), program.mesh.size, program.state
    measured = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "state_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        "batch": {sharding.path_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves},
        "devices": f"{devices} × {jax.devices()[0].device_kind}",
        "mesh": dict(program.mesh.shape),
        "compile_s": seconds,
        "flops_per_step": flops,
        "flops_per_device": flops / devices,
        "state_bytes_per_device": sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
        ),
        "collectives": count_collectives(compiled.as_text()),
        "memory_bytes": sizes,
        "memory_per_device": sizes["argument"] + sizes["output"] - sizes["alias"] + sizes["temp"],
    }
    return measured | {"expected": expected(measured)}
