"""The accuracies that both frameworks reach."""
