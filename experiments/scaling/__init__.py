"""Cost model of a training step on several devices, fitted to measured times."""
