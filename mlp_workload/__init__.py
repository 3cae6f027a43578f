"""What both frameworks must do, said once: standard library and NumPy only, imports neither JAX nor torch."""
