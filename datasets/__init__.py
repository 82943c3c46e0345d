"""Data sets (one folder each), the environments behind them, and the pipeline from any TFDS data set to batches."""
