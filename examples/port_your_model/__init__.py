"""A small torch network, its Flax port, and the two held together."""
