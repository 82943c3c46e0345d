"""What a step would take on hardware that is not here: a bound from data sheets."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One device, by its data sheet.

    Attributes:
      flops: dense bfloat16 matrix operations per second.
      memory: bytes.
      memory_bandwidth: bytes per second.
      network: bytes per second that a device sends, and receives, between the nodes of a cluster.
    """

    flops: float
    memory: float
    memory_bandwidth: float
    network: float


ACCELERATORS = {
    "A100-80GB": Accelerator(flops=312e12, memory=80e9, memory_bandwidth=2.0e12, network=25e9),  # HDR InfiniBand
    "H100-80GB": Accelerator(flops=989e12, memory=80e9, memory_bandwidth=3.35e12, network=50e9),  # NDR InfiniBand
    "H200-141GB": Accelerator(flops=989e12, memory=141e9, memory_bandwidth=4.8e12, network=50e9),
    "TPU v5p": Accelerator(flops=459e12, memory=95e9, memory_bandwidth=2.765e12, network=600e9),
}
USABLE = 0.9  # of a device's memory; the rest is the runtime's and lost between allocations


def expected(measured: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Bounds for a compiled step on each accelerator, by the roofline model (Williams et al. 2009).

    Args:
      measured: what `program.measure` knows: `flops_per_device`, `state_bytes_per_device`, `memory_per_device` and
        `collectives`.

    Returns:
      By accelerator: `fits`, and the seconds that products, the traffic of the state (read and written once) and the
      network (each collective's bytes sent once) would take alone; `step_s` is the longest of them. A real step
      overlaps them less than perfectly, and takes longer.
    """
    sent = sum(kind["bytes"] for kind in measured["collectives"].values())

    def on(device: Accelerator) -> dict[str, Any]:
        compute = measured["flops_per_device"] / device.flops
        memory = 2 * measured["state_bytes_per_device"] / device.memory_bandwidth
        network = sent / device.network
        bounds = {"compute_s": compute, "memory_s": memory, "network_s": network}
        fits = measured["memory_per_device"] <= USABLE * device.memory
        return {
            "fits": fits,
            "step_s": max(bounds.values()),
            "limit": max(bounds, key=bounds.__getitem__)[:-2],
            **bounds,
        }

    return {name: on(device) for name, device in ACCELERATORS.items()}
