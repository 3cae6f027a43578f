"""What a run's numbers depend on besides its configuration."""
