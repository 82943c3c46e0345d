"""What the code costs in time and memory, each figure beside what the machine can do: `python -m benchmarks`."""
