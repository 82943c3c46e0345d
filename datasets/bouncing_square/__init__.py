"""The bouncing-square world: its rules, an environment to act in, and a TFDS builder of recorded episodes."""
