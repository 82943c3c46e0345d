"""How speed and memory scale: `python -m benchmarks.scaling [--preset=PRESET] [--json=FILE] [--figures=DIR]`."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import product
from benchmarks.options import Options
from benchmarks.runner import run_apart
from tasks import figures
from trainer.errors import UserError

TRAIN, GENERATE = "dynamics_train_step", "generate"
FACTORS = {"batch": (0.25, 0.5, 1, 2), "width": (0.5, 1, 2)}  # of the config's own
FRAMES, WINDOWS, GENERATION_WINDOWS, DEVICES = (8, 16, 32, 64), (8, 16, 32, 64), (16, 32, 64, 128), (1, 2, 4, 8)
BASE_FRAMES = 32  # of a clip, where it is not T that varies
LABELS = {  # of the x-axis, and what was measured
    "frames": ("frames per clip (T)", "dynamics training"),
    "batch": ("clips per batch (B)", "dynamics training"),
    "width": ("width (D)", "dynamics training"),
    "window": ("window (C)", "dynamics training"),
    "generation window": ("window (C)", "generation, batch 1"),
    "devices": ("devices, same batch", "dynamics training"),
}
_LENGTH, _WIDTH, _WINDOW = "data.length", "task.model.transformer.width", "task.model.transformer.window"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a benchmark.

    Attributes:
      axis: what varies.
      value: of it.
      benchmark: which is run.
      rows: of a batch.
      overrides: of the config.
      devices: how many the step is split over.
    """

    axis: str
    value: int
    benchmark: str
    rows: int
    overrides: Mapping[str, int]
    devices: int = 1


def points(options: Options, most: int) -> Iterator[Point]:
    """All points, axis by axis, at most so many each."""
    config = product.load("dynamics", options)
    rows, width, base = config.data.batch_size, config.task.model.transformer.width, {_LENGTH: BASE_FRAMES}

    def scaled(axis: str, own: int) -> list[int]:
        values = sorted({max(2, round(factor * own)) for factor in FACTORS[axis]})
        return _few(values, most)

    for value in _few(FRAMES, most):
        yield Point(axis="frames", value=value, benchmark=TRAIN, rows=rows, overrides={_LENGTH: value})
    for value in scaled("batch", rows):
        yield Point(axis="batch", value=value, benchmark=TRAIN, rows=value, overrides=base)
    for value in scaled("width", width):
        yield Point(axis="width", value=value, benchmark=TRAIN, rows=rows, overrides={**base, _WIDTH: value})
    for value in _few(WINDOWS, most):
        overrides = {_LENGTH: max(WINDOWS), _WINDOW: value}
        yield Point(axis="window", value=value, benchmark=TRAIN, rows=rows, overrides=overrides)
    for value in _few(GENERATION_WINDOWS, most):
        yield Point(axis="generation window", value=value, benchmark=GENERATE, rows=rows, overrides={_WINDOW: value})
    for value in _few([count for count in DEVICES if rows % count == 0], most):
        yield Point(axis="devices", value=value, benchmark=TRAIN, rows=rows, overrides=base, devices=value)


def _few(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the values, evenly, the first and the last among them."""
    kept = np.unique(np.linspace(0, len(values) - 1, max(2, min(most, len(values)))).round().astype(int))
    return [values[index] for index in kept]


def measure(options: Options, most: int) -> dict[str, Any]:
    """Runs every point in a process of its own.

    Returns:
      `machine`, `preset`, and by axis a list of points: `value` and the benchmark's figures, or `error`.
    """
    results: dict[str, Any] = {"machine": None, "preset": options.preset}
    for point in points(options, most):
        overrides = tuple((key, str(value)) for key, value in point.overrides.items())
        own = dataclasses.replace(options, batch=point.rows, overrides=overrides)
        out = run_apart(point.benchmark, own, _environment(point.devices))
        found = out[point.benchmark]
        if "error" not in found and found.get("devices", 1) < point.devices:
            found = {"error": f"there are only {found['devices']} devices"}
        results["machine"] = results["machine"] or out.get("machine")
        results.setdefault(point.axis, []).append({"value": point.value, "benchmark": point.benchmark, **found})
        shown = found.get("error") or f"{found['frames_per_s']:,.1f} frames/s"
        print(f"{point.axis} = {point.value}: {shown}", file=sys.stderr, flush=True)
    return results


def _environment(devices: int) -> dict[str, str]:
    """A process's environment with so many devices: the first GPUs, or as many parts of the processor."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(max(DEVICES)))))
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    gpus = ",".join(visible.split(",")[:devices])
    return {**os.environ, "CUDA_VISIBLE_DEVICES": gpus, "XLA_FLAGS": flags.strip()}


def draw(results: Mapping[str, Any]) -> np.ndarray:
    """Frames/s and, below, memory against every axis; a picture [H, W, 3] of bytes."""
    axes = {name: _done(found) for name, found in results.items() if name in LABELS}
    rows = []
    for key, scale, label, color in (
        ("frames_per_s", 1, "frames/s", figures.COLORS["cloned"]),
        ("peak_memory", 2**20, "peak memory per device (MiB)", figures.COLORS["agent"]),
    ):
        figure, places = figures.axes(len(axes), width=2.9, height=2.7)
        for place, (name, found) in zip(places, axes.items(), strict=True):
            values = [point["value"] for point in found]
            heights = [point[key] / scale for point in found]
            place.plot(values, heights, "o-", color=color)
            place.set_xscale("log", base=2)
            place.set_xticks(values, map(str, values))
            place.minorticks_off()
            place.set(xlabel=LABELS[name][0], title=LABELS[name][1], ylim=(0, 1.1 * max(heights, default=1)))
        places[0].set_ylabel(label)
        rows.append(figures.render(figure))
    return np.concatenate(rows)


def _done(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [point for point in found if "error" not in point]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the results as JSON and draws them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__, allow_abbrev=False)
    parser.add_argument("--preset", default="reference", help="of the configs (default: %(default)s)")
    parser.add_argument("--batch", type=int, metavar="N", help="rows of a batch where they do not vary")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="to time a point, about")
    parser.add_argument("--points", type=int, default=4, metavar="N", help="of an axis, at most (and 2 at least)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results into this file, too")
    parser.add_argument("--figures", type=Path, default=Path("docs/images"), metavar="DIR", help="for scaling.png")
    given = parser.parse_args(argv)
    try:
        results = measure(Options(preset=given.preset, batch=given.batch, seconds=given.seconds), given.points)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = json.dumps(results, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    given.figures.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(results)).save(given.figures / "scaling.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
