"""The MLP in PyTorch, the reference for the JAX side. Never imports jax."""
