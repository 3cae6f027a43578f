"""Checks of one machine's GPU."""
