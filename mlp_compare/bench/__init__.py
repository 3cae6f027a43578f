"""The cost of each way of training."""
