"""A hand-made data set; TFDS wants a builder to live in a package."""
