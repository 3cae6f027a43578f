"""A page on which one draws a digit and sees what both frameworks make of it, live."""
