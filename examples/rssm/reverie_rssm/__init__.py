"""A recurrent state-space world model and an actor-critic in its imagination (Dreamer 3, arXiv:2301.04104)."""
