"""A run's curves on a Visdom server."""
