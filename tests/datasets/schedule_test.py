"""The plan of every batch: the same for all numbers of processes, and for all versions of this code."""

import hashlib

import numpy as np
import pytest

from datasets.errors import DataError
from datasets.schedule import Schedule


def make(**changes):
    settings = dict(
        num_episodes=37, batch_size=6, length=9, short_batch_size=10, short_length=4, long_every=3,
        independent_share=0.3, reset_share=0.0, shuffle=True, num_epochs=None, seed=11,
    )  # fmt: skip
    return Schedule(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "7fc4407a10b8889a"),
        ({"shuffle": False, "reset_share": 1.0, "seed": 0}, "dc9aeeb1a463239e"),
        ({"independent_share": 0.0, "long_every": 1, "num_episodes": 5}, "23ebf8a0f70b9f85"),
    ],
    ids=["mixed", "in order", "long only"],
)
def test_stored_runs_continue_with_the_plans_that_they_began_with(changes, digest):
    schedule, found = make(**changes), hashlib.sha256()
    for step in range(25):
        for array in schedule.plan(step):
            found.update(str((array.shape, array.dtype)).encode() + array.tobytes())
    assert found.hexdigest()[:16] == digest


@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_shares_of_all_processes_make_up_the_batch_of_one(count):
    sizes = {"batch_size": 6, "short_batch_size": 12}
    shares = [make(**sizes, process_index=index, process_count=count) for index in range(count)]
    for step in range(20):
        plans = [share.plan(step) for share in shares]
        assert len({len(plan.independent) for plan in plans}) == 1
        for parts, whole in zip(zip(*plans, strict=True), make(**sizes).plan(step), strict=True):
            np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert {len(share) for share in shares} == {len(make(**sizes))}
    finite = {"num_epochs": 2, **sizes}
    assert len(make(**finite, process_count=count)) == len(make(**finite))


def test_rows_that_cannot_be_dealt_out_evenly_are_refused():
    with pytest.raises(
        DataError, match=r"^batch_size = 6, .* to 4 processes: make --config.data.batch_size a multiple"
    ):
        make(process_count=4)
    with pytest.raises(DataError, match=r"^short_batch_size = 10, .* to 3 processes"):
        make(process_count=3)
    make(process_count=3, long_every=1)  # there are no short batches
