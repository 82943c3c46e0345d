"""Several processes that train together: who is first, and what all of them agree on; one process is asked nothing."""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from trainer.errors import CheckpointError, ConfigError, DataError, TrainingError, UserError
from trainer.state import PyTree
from trainer.stopping import StopFlag, StopReason

SYNC_EVERY = 10  # steps between two looks at what the other processes want
_SHORT = 252  # bytes of JSON that take one exchange; what is longer takes two
_KINDS = {kind.__name__: kind for kind in (CheckpointError, ConfigError, DataError, TrainingError, UserError, OSError)}


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, *,
    flag: StopFlag | None = None,
) -> StopReason | None:  # fmt: skip
    """Joins the processes of a run; to be called in each of them, before JAX computes anything.

    Without arguments JAX asks the cluster (Slurm, Open MPI, Kubernetes, Cloud TPU).

    Args:
      coordinator: HOST:PORT, where the first process can be reached.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      flag: ends the wait for the others when a stop is asked for there.

    Returns:
      None once all have joined; else the stop that ended the wait, after which this process can only end.

    Raises:
      ConfigError: only some of the arguments were given, they are no address and numbers, or the others could not be
        reached.
    """
    if coordinator is not None and num_processes is not None and process_id is not None:
        if problem := address_problem(coordinator, num_processes, process_id):
            raise ConfigError(f"The processes cannot be joined: {problem}.")
    elif (given := (coordinator, num_processes, process_id)) != (None, None, None):
        raise ConfigError(f"coordinator, num_processes and process_id belong together; given: {given}.")
    # JAX's own service would take SIGTERM away from whoever listens to it.
    if hasattr(jax.config, "jax_enable_preemption_service"):
        jax.config.update("jax_enable_preemption_service", False)
    if coordinator is not None:
        say(f"process {process_id}: waiting for {num_processes} processes at {coordinator}")
    failed: list[Exception] = []

    def join() -> None:
        try:
            jax.distributed.initialize(coordinator, num_processes, process_id)
        except Exception as error:  # raised again below, in the thread that asked
            failed.append(error)

    # JAX waits for the others in C++, where no signal of this thread would be heard.
    joining = threading.Thread(target=join, daemon=True)
    joining.start()
    while joining.is_alive() and (flag is None or flag.value is None):
        joining.join(0.1)
    if failed and not isinstance(failed[0], RuntimeError | ValueError):
        raise failed[0]
    if failed:
        raise ConfigError(
            f"The processes cannot be joined ({failed[0]}). Give the coordinator's HOST:PORT, the number of processes "
            "and this one's number, or start them in a cluster that JAX knows."
        ) from failed[0]
    return flag.value if flag is not None and joining.is_alive() else None


def address_problem(coordinator: str, num_processes: int, process_id: int) -> str:
    """What is wrong with the arguments of `initialize`, which JAX would not say; "" where nothing is."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        return f"the coordinator {coordinator!r} is no HOST:PORT with a port from 1 to 65535, as in 10.0.0.1:9000"
    if num_processes < 1:
        return f"the number of processes is {num_processes}; expected 1 or more"
    if not 0 <= process_id < num_processes:
        return f"this process has the number {process_id}; of {num_processes}, expected 0 to {num_processes - 1}"
    return ""


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line to stderr, in the first process alone."""
    if not jax.distributed.is_initialized() or is_first():
        print(line, file=sys.stderr, flush=True)


def barrier(name: str) -> None:
    """Waits until all processes are here.

    Args:
      name: the same in all of them.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather_json(value: Any) -> list[Any]:
    """The value of each process, in their order; all have to call it.

    Args:
      value: JSON-able data.
    """
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    head = np.zeros(4 + _SHORT, np.uint8)
    head[:4] = np.frombuffer(np.uint32(data.size).tobytes(), np.uint8)
    head[4 : 4 + min(data.size, _SHORT)] = data[:_SHORT]
    heads = multihost_utils.process_allgather(head)
    sizes = [int(np.frombuffer(row[:4].tobytes(), np.uint32)[0]) for row in heads]
    rows = heads[:, 4:]
    if max(sizes) > _SHORT:
        whole = np.zeros(1 << max(sizes).bit_length(), np.uint8)  # few sizes, as each is compiled
        whole[: data.size] = data
        rows = multihost_utils.process_allgather(whole)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def agree(value: StopReason | None) -> StopReason | None:
    """The stop request of the first process that has one, the same in all; all have to call it."""
    requests = [request for request in gather_json(value) if request is not None]
    return StopReason(*requests[0]) if requests else None


class AgreedFlag(StopFlag):
    """The stop flag of one fit: a request counts when all processes know of it; with one process, at once.

    Args:
      command: where the command that the fit belongs to, with other fits perhaps, is asked to stop. What is asked for
        here stops this fit alone.
    """

    def __init__(self, command: StopFlag) -> None:
        super().__init__()
        self._command = command
        self._agreed: StopReason | None = None
        self.made = command.made

    @property
    def value(self) -> StopReason | None:
        """The request that all know of, or None."""
        return self._wanted if jax.process_count() == 1 else self._agreed

    @property
    def _wanted(self) -> StopReason | None:
        """What this process asks for."""
        return self._value or self._command.value

    def request(self, reason: str, resumable: bool) -> None:
        """Asks for a stop at the next agreement; the first request wins."""
        if self._command.value is None:
            super().request(reason, resumable)

    def agree(self) -> None:
        """Tells the other processes of requests and learns of theirs; all have to call it at the same step."""
        if self.value is None:
            self._agreed = agree(self._wanted)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises on all processes what goes wrong on one of them inside, so that none waits for one that is gone.

    It cannot help the others where they already wait, inside, for the one that fails.

    Raises:
      UserError: another process raised one, of the same kind, or something unforeseen.
      OSError: another process raised one.
    """
    if jax.process_count() == 1:
        yield
        return
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    kind = "OSError" if isinstance(own, OSError) else type(own).__name__
    failures = gather_json(None if own is None else [kind, str(own)])
    if own is not None:
        raise own
    for process, failure in enumerate(failures):
        if failure is not None:
            kind, message = failure
            if kind not in _KINDS:
                raise UserError(f"process {process} failed: {kind}: {message}")
            raise _KINDS[kind](f"process {process}: {message}")


def whole(tree: PyTree, everywhere: bool = True) -> PyTree:
    """Copies of a tree's arrays in host memory, those that are split over processes put together.

    All processes have to call it. Keys come as their data.

    Args:
      tree: arrays.
      everywhere: False for copies in the first process alone; the others get None in their place.
    """

    def local(leaf: Any) -> Any:
        """The whole array on a device of this process, or on the host."""
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return leaf.addressable_data(0)
        return multihost_utils.process_allgather(leaf, tiled=True)

    leaves, treedef = jax.tree.flatten(tree)
    if jax.process_count() == 1:
        host = [np.array(leaf) for leaf in jax.device_get([local(leaf) for leaf in leaves])]
        return jax.tree.unflatten(treedef, host)
    take, copies = everywhere or is_first(), []
    for leaf in leaves:  # one after the other, so that no device has to hold more than one of them whole
        found = local(leaf)
        copies.append(np.array(found) if take else None)
    return jax.tree.unflatten(treedef, copies)
