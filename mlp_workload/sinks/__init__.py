"""Receivers of a run's events. The training loop knows none of them by name."""
