"""Where events go. The training loop knows none of these by name."""
