"""Benchmark of the ways to train the same network."""
