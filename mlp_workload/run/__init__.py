"""A run: its loop, folder, checkpoints, signals and events."""
