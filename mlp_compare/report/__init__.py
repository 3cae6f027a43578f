"""Report: one page about runs."""
