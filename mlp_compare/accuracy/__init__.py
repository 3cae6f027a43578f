"""Comparison of the accuracies that both frameworks reach."""
