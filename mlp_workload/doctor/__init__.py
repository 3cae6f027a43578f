"""What is wrong with an installation, and how to fix it: `python -m mlp_workload.doctor --help`."""
