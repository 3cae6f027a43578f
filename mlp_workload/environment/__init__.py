"""The machine and the environment variables that a run's numbers depend on."""
