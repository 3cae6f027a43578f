"""Checks an installation and tells how to fix it: `python -m mlp_workload.doctor --help`."""
