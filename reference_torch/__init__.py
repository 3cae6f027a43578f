"""The MLP in PyTorch, the original that JAX is held against. Never imports jax."""
