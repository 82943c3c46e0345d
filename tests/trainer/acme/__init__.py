"""What somebody else's package looks like: a plugin of every kind, none of which inherits more than it has to."""
