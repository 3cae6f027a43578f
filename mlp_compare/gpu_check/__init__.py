"""Checks of the whole project on one machine's GPU."""
