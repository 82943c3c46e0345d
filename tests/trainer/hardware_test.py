"""What a dry run says of hardware that is not here: collectives of the program, and bounds by the roofline."""

import pytest

from trainer.collectives import count_collectives
from trainer.hardware import ACCELERATORS, expected

HLO = """\
HloModule jit_step, is_scheduled=true

%body.1 (p.1: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %gathered = bf16[8,4]{1,0} all-gather(%part), channel_id=1, dimensions={0}
  ROOT %next = (s32[], bf16[8,4]) tuple(%i, %gathered)
}

%outer.2 (p.2: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  ROOT %inner = (s32[]) while(%init), condition=%c.1, body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main.3 (p: f32[2,3]) -> f32[2,3] {
  %loop = (s32[], bf16[8,4]) while(%start), condition=%c.2, body=%outer.2, backend_config={"known_trip_count":{"n":"5"}}
  %sums = (f32[2,3]{1,0}, f32[7]) all-reduce(%a, %b), to_apply=%add
  %begin = f32[10] all-gather-start(%x), dimensions={0}
  ROOT %done = f32[2,3] add(%sums, %sums)
}
"""


def test_collectives_count_as_often_as_loops_run_them():
    assert count_collectives(HLO) == {
        "all-gather": {"count": 15 + 1, "bytes": 15 * 8 * 4 * 2 + 40},
        "all-reduce": {"count": 1, "bytes": (6 + 7) * 4},
    }


@pytest.mark.parametrize(
    ("changes", "limit", "seconds"),
    [
        ({}, "compute", 2.0),
        ({"collectives": {"all-gather": {"bytes": 100e9}, "all-reduce": {"bytes": 50e9}}}, "network", 3.0),
        ({"state_bytes_per_device": 3.35e12 * 2.5}, "memory", 5.0),
    ],
)  # fmt: skip
def test_the_longest_of_the_bounds_is_the_step(changes, limit, seconds):
    measured = {"flops_per_device": 2 * 989e12, "state_bytes_per_device": 1e9, "memory_per_device": 71e9}
    on = expected({**measured, "collectives": {}, **changes})
    assert set(on) == set(ACCELERATORS)
    assert (on["H100-80GB"]["limit"], on["H100-80GB"]["step_s"]) == (limit, pytest.approx(seconds))


def test_what_does_not_fit_is_said():
    measured = {"flops_per_device": 1e12, "state_bytes_per_device": 1e9, "collectives": {}}
    for size, fits in ((71e9, True), (73e9, False)):  # 80 GB, of which a tenth is not to be had
        assert expected({**measured, "memory_per_device": size})["H100-80GB"]["fits"] is fits
        assert expected({**measured, "memory_per_device": size})["H200-141GB"]["fits"] is True
