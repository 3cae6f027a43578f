"""The MLP in JAX, Flax and optax. Never imports torch."""
