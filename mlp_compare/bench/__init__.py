"""What each way of training costs."""
