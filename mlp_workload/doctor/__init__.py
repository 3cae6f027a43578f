"""What is wrong with an installation, and how to mend it: `python -m mlp_workload.doctor --help`."""
