"""Known differences between PyTorch and JAX."""
