"""Models as flax.nnx modules and pure functions; nothing here knows of trainers, tasks or files."""
