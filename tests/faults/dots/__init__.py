"""A data set on the disk; TFDS wants a builder to live in a package."""
