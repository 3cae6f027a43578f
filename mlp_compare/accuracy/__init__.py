"""Whether both frameworks reach the same accuracy."""
