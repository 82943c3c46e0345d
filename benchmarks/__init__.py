"""What the code costs in time and memory, measured as ratios in one process: `python -m benchmarks`."""
